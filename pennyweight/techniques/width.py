"""Width pruning: feed-forward neurons, key-value groups with their query heads, and hidden channels, ranked by what
flows through them (as Muralidharan et al. 2024, arxiv.org/abs/2407.14679). Every layer keeps the same numbers, so that
config.json describes it fully and any engine loads the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pennyweight.errors import UsageError
from pennyweight.model import Model
from pennyweight.shape import ModelShape
from pennyweight.techniques import activations
from pennyweight.techniques.base import Material, Technique, digest, share_of
from pennyweight.techniques.layout import changeable, check_tensors, split

if TYPE_CHECKING:
    import torch

    from pennyweight.weights import Weights

SNAP = 32  # GGUF's blocks; sizes that kernels like are multiples of it
RANKINGS = ("activations", "random")
QUERY, KEY, VALUE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
EVEN_HEADS = ("llama", "gemma3_text")  # whose configs transformers refuses where heads do not divide the channels
# Norms over the hidden channels, and the linear layer that reads each (whose input is the norm's output).
READERS = {
    "input_layernorm.weight": QUERY,
    "post_attention_layernorm.weight": "mlp.gate_proj",
    "pre_feedforward_layernorm.weight": "mlp.gate_proj",
}


@dataclass(frozen=True)
class Width(Technique):
    """The sizes to keep; 0 keeps what there is."""

    intermediate: int = 0
    groups: int = 0
    hidden: int = 0
    ranking: str = "activations"
    calibration: tuple[str, ...] = ()
    seed: int = 0

    name: ClassVar[str] = "width"
    search_name: ClassVar[str] = "neurons"
    default_amount: ClassVar[str] = "12.5%"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def __post_init__(self) -> None:
        if self.ranking not in RANKINGS:
            raise UsageError(f"The ranking {self.ranking!r} is unknown: use {', '.join(RANKINGS)}.")

    @classmethod
    def check_amount(cls, amount: str) -> None:
        share_of(amount, cls.search_name)

    @classmethod
    def from_amount(cls, amount: str, material: Material) -> Technique:
        return Width(intermediate=_neurons_left(material.shape, amount), calibration=material.calibration)

    @classmethod
    def predict_config(cls, config: dict[str, Any], amount: str) -> dict[str, Any]:
        shape = changeable(config)
        return narrowed(config, shape, Width(intermediate=_neurons_left(shape, amount)))

    def settings(self) -> dict[str, Any]:
        sizes = {"intermediate": self.intermediate, "groups": self.groups, "hidden": self.hidden}
        if self.ranking == "random":
            return {**sizes, "ranking": "random", "seed": self.seed}
        return {**sizes, "ranking": self.ranking, "calibration": digest(self.calibration)}

    def result_kind(self, model: Model) -> tuple[str, str]:
        shape = changeable(model.config)
        for word, wanted, present, step in (
            ("--intermediate-size", self.intermediate, shape.intermediate_size, SNAP),
            ("--kv-groups", self.groups, shape.num_key_value_heads, 1),
            ("--hidden-size", self.hidden, shape.hidden_size, SNAP),
        ):
            if wanted < 0 or wanted > present:
                raise UsageError(f"{word} {wanted} is not possible: {model.name} has {present}.")
            if wanted % step:
                near = max(step, round(wanted / step) * step)
                raise UsageError(f"{word} {wanted} is no multiple of {step}, which kernels need: use {near}.")
        heads = shape.heads // shape.num_key_value_heads * (self.groups or shape.num_key_value_heads)
        if shape.model_type in EVEN_HEADS and (self.hidden or shape.hidden_size) % heads:
            step = math.lcm(SNAP, heads)
            raise UsageError(
                f"{self.hidden or shape.hidden_size} hidden channels are no multiple of {heads} heads, which "
                f"transformers requires: keep a multiple of {step} with --hidden-size, or other --kv-groups."
            )
        if not (self.intermediate or self.groups or self.hidden):
            raise UsageError("Say what to keep: --intermediate-size, --kv-groups or --hidden-size.")
        if self.ranking != "random" and not self.calibration:
            raise UsageError("Width pruning needs text to rank on: name a workload.")
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from pennyweight.weights import Weights, rewrite

        config = Model.config_of(source)
        shape = changeable(config)
        weights = Weights(source)
        check_tensors(weights)
        if self.ranking == "random":
            squares = None
        else:
            squares = activations.collect(
                activations.load(source), activations.windows(source, self.calibration)
            ).squares
        choice = choose(shape, weights, squares, self)
        surgeon = Surgeon(shape, choice, squares, weights)
        rewrite(source, target, narrowed(config, shape, self), lambda name, t: [(name, surgeon.cut(name, t))])


@dataclass(frozen=True)
class Choice:
    """What stays: sorted indices, neurons and groups by layer."""

    neurons: list[torch.Tensor]
    groups: list[torch.Tensor]
    channels: torch.Tensor


def choose(shape: ModelShape, weights: Weights, squares: dict[str, torch.Tensor] | None, sizes: Width) -> Choice:
    """The neurons and groups of each layer, and the channels of all, that carry most."""
    import torch

    generator = torch.Generator().manual_seed(sizes.seed)

    def best(importance: torch.Tensor, keep: int) -> torch.Tensor:
        if squares is None:
            importance = torch.rand(len(importance), generator=generator)
        kept = torch.topk(importance, keep or len(importance)).indices
        return torch.sort(kept).values

    def carried(layer: int, part: str) -> torch.Tensor:
        """Per input feature of a linear layer: its mean square times the squared norm of the column that it feeds."""
        column = weights[f"model.layers.{layer}.{part}.weight"].float().square().sum(0)
        return column if squares is None else column * squares[f"model.layers.{layer}.{part}"]

    neurons, groups = [], []
    for layer in range(shape.layers):
        neurons.append(best(carried(layer, "mlp.down_proj"), sizes.intermediate))
        by_group = carried(layer, "self_attn.o_proj").reshape(shape.num_key_value_heads, -1).sum(1)
        groups.append(best(by_group, sizes.groups))
    channels = torch.ones(shape.hidden_size)
    if squares is not None:
        parts = (QUERY, "mlp.gate_proj")
        channels = sum(
            (squares[f"model.layers.{i}.{p}"] for i in range(shape.layers) for p in parts),
            torch.zeros(shape.hidden_size),
        )
    return Choice(neurons, groups, best(channels, sizes.hidden))


@dataclass(frozen=True)
class Surgeon:
    """Cuts one tensor at a time down to a choice."""

    shape: ModelShape
    choice: Choice
    squares: dict[str, torch.Tensor] | None
    weights: Weights

    def cut(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        layer, part = split(name)
        if layer is None:
            return self._outside(name, tensor)
        channels, neurons = self.choice.channels, self.choice.neurons[layer]
        stem = part.rsplit(".", 1)[0]
        if stem in ("mlp.gate_proj", "mlp.up_proj"):
            return tensor[neurons][:, channels]
        if stem == "mlp.down_proj":
            return tensor[channels][:, neurons]
        if stem == "self_attn.o_proj":
            return tensor[channels] if tensor.ndim == 1 else tensor[channels][:, self._heads(layer, QUERY)]
        if stem in (QUERY, KEY, VALUE):
            rows = tensor[self._heads(layer, stem)]
            return rows if tensor.ndim == 1 else rows[:, channels]
        if part.endswith("layernorm.weight"):
            reader = READERS.get(part, "")
            if self.shape.model_type == "gemma3_text" and part == "post_attention_layernorm.weight":
                reader = ""  # there it works on what attention gives, which no linear layer reads
            return self._norm(tensor, f"model.layers.{layer}.{reader}")
        return tensor  # q_norm and k_norm work within a head

    def _outside(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == "model.norm.weight":
            kept = self._norm(tensor, "lm_head")
            if self.shape.model_type != "gemma3_text":
                return kept
            return (1 + kept) / self._embedding_scale() - 1
        kept = tensor[:, self.choice.channels]
        return kept * self._embedding_scale() if self.shape.model_type == "gemma3_text" else kept

    def _embedding_scale(self) -> float:
        """Gemma multiplies its embeddings by the root of the width, which is smaller now."""
        return float((self.shape.hidden_size / len(self.choice.channels)) ** 0.5)

    def _norm(self, tensor: torch.Tensor, reader: str) -> torch.Tensor:
        """The kept channels' mean square is another than all channels': the norm's weight takes the ratio."""
        kept = tensor[self.choice.channels]
        if self.squares is None or reader not in self.squares or len(kept) == len(tensor):
            return kept
        gemma = self.shape.model_type == "gemma3_text"
        gain = (1 + tensor if gemma else tensor).float()
        before_gain = self.squares[reader] / gain.square().clamp_min(1e-12)
        ratio = (before_gain[self.choice.channels].mean() / before_gain.mean()).sqrt()
        scaled = (gain[self.choice.channels] * ratio).to(tensor.dtype)
        return scaled - 1 if gemma else scaled

    def _heads(self, layer: int, stem: str) -> torch.Tensor:
        """Rows of the kept groups: one head of keys or values each, and all query heads that share it."""
        import torch

        width = self.shape.head_width
        if stem == QUERY:
            width *= self.shape.heads // self.shape.num_key_value_heads
        starts = self.choice.groups[layer] * width
        return (starts[:, None] + torch.arange(width)).flatten()


def narrowed(config: dict[str, Any], shape: ModelShape, sizes: Width) -> dict[str, Any]:
    groups = sizes.groups or shape.num_key_value_heads
    return {
        **config,
        "hidden_size": sizes.hidden or shape.hidden_size,
        "intermediate_size": sizes.intermediate or shape.intermediate_size,
        "num_key_value_heads": groups,
        "num_attention_heads": shape.heads // shape.num_key_value_heads * groups,
        "head_dim": shape.head_width,
    }


def intermediate_for(shape: ModelShape, parameters: int) -> int:
    """The largest feed-forward width with which the model has at most this many parameters."""
    surplus = max(0, shape.parameters - parameters)
    lost = -(-surplus // (3 * shape.hidden_size * shape.layers))
    width = (shape.intermediate_size - lost) // SNAP * SNAP
    if width < SNAP:
        raise UsageError(
            f"{parameters / 1e6:.1f}M parameters leave no feed-forward neurons: prune layers or the vocabulary instead."
        )
    return int(width)


def _neurons_left(shape: ModelShape, amount: str) -> int:
    return max(SNAP, round(shape.intermediate_size * (1 - share_of(amount, Width.search_name)) / SNAP) * SNAP)
