"""Width pruning: feed-forward neurons, key-value groups with their query heads, and hidden channels, ranked by what
flows through them (as Muralidharan et al. 2024, arxiv.org/abs/2407.14679). Every layer keeps the same numbers, so that
config.json describes it fully and any engine loads the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pennyweight.checks.architecture import check_made
from pennyweight.errors import ModelError, UsageError
from pennyweight.model import Model
from pennyweight.shape import ModelShape
from pennyweight.techniques import activations
from pennyweight.techniques.base import Material, Technique, check_ranking, digest, share_of
from pennyweight.techniques.layout import (
    GATE_UP,
    HEAD,
    HIDDEN,
    KEY,
    NEURON,
    QUERY,
    QUERY_KEY_VALUE,
    SCALED_EMBEDDING,
    TOKEN,
    Layout,
    changeable,
    sizes,
    split,
)

if TYPE_CHECKING:
    import torch

    from pennyweight.weights import Weights

SNAP = 32  # GGUF's blocks; sizes that kernels like are multiples of it
RANKINGS = ("activations", "random")
EVEN_HEADS = ("llama", "gemma3_text")  # whose configs transformers refuses where heads do not divide the channels


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
    revision: ClassVar[int] = 2  # norms scaled by their own inputs

    def __post_init__(self) -> None:
        check_ranking(self.ranking, RANKINGS)

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
        Layout.of_model(model).refuse_unknown()
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from pennyweight.weights import Weights, rewrite

        config = Model.config_of(source)
        shape = changeable(config)
        weights = Weights(source)
        layout = Layout.of(shape, weights.shapes)
        after = narrowed(config, shape, self)
        check_expressible(after, dict(sizes(ModelShape.of(after), layout)))
        found, offset = None, 0.0
        if self.ranking != "random":
            model = activations.load(source)
            found = activations.collect(model, activations.windows(source, self.calibration))
            offset = 1.0 if activations.adds_one(model) else 0.0
        choice = choose(layout, weights, found.squares if found else None, self)
        surgeon = Surgeon(layout, choice, found.shares if found else {}, offset)
        rewrite(source, target, after, lambda name, t: [(name, surgeon.cut(name, t))])
        check_made(target)


def check_expressible(config: dict[str, Any], planned: dict[str, tuple[int, ...]]) -> None:
    """Raise `ModelError` where transformers' class for this config would not have tensors of these sizes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    except Exception as error:  # classes check their configs in ways of their own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"A {config['model_type']} config cannot describe these sizes ({lines[-1] if lines else type(error)}): cut "
            "other ones, such as --intermediate-size."
        ) from None
    for name, tensor in model.state_dict().items():
        if planned.get(name, tuple(tensor.shape)) != tuple(tensor.shape):
            raise ModelError(
                f"A {config['model_type']} config cannot describe these sizes: {name} would be {planned[name]} where "
                f"transformers makes {tuple(tensor.shape)}. Cut the feed-forward neurons (--intermediate-size) instead."
            )


@dataclass(frozen=True)
class Choice:
    """What stays: sorted indices, neurons and groups by layer."""

    neurons: list[torch.Tensor]
    groups: list[torch.Tensor]
    channels: torch.Tensor


def choose(layout: Layout, weights: Weights, squares: dict[str, torch.Tensor] | None, sizes: Width) -> Choice:
    """The neurons and groups of each layer, and the channels of all, that carry most."""
    import torch

    shape = layout.shape
    generator = torch.Generator().manual_seed(sizes.seed)

    def best(importance: torch.Tensor, keep: int) -> torch.Tensor:
        if squares is None:
            importance = torch.rand(len(importance), generator=generator)
        kept = torch.topk(importance, keep or len(importance)).indices
        return torch.sort(kept).values

    def carried(layer: int, axis: str) -> torch.Tensor:
        """Per input feature of the layer that reads this axis: its mean square times the squared norm of the column
        that it feeds."""
        module = layout.find(layer, (HIDDEN, axis))
        column = weights[f"{module}.weight"].float().square().sum(0)
        return column if squares is None else column * squares[module]

    neurons, groups = [], []
    for layer in range(shape.layers):
        neurons.append(best(carried(layer, NEURON), sizes.intermediate))
        by_group = carried(layer, QUERY).reshape(shape.num_key_value_heads, -1).sum(1)
        groups.append(best(by_group, sizes.groups))
    channels = torch.ones(shape.hidden_size)
    if squares is not None:
        readers = [((QUERY, HIDDEN), (QUERY_KEY_VALUE, HIDDEN)), ((NEURON, HIDDEN), (GATE_UP, HIDDEN))]
        channels = sum(
            (squares[layout.find(layer, *axes)] for layer in range(shape.layers) for axes in readers),
            torch.zeros(shape.hidden_size),
        )
    return Choice(neurons, groups, best(channels, sizes.hidden))


@dataclass(frozen=True)
class Surgeon:
    """Cuts one tensor at a time down to a choice. `shares`: of each channel in a norm's input, by module; `offset`:
    what norms add to their weight."""

    layout: Layout
    choice: Choice
    shares: dict[str, torch.Tensor]
    offset: float

    def cut(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        axes, (layer, _) = self.layout.axes[name], split(name)
        kept = [self._kept(layer, axis) for axis in axes]
        if len(axes) == 1 and name.endswith("norm.weight"):
            return self._norm(name, tensor, kept[0])
        for dimension, indices in enumerate(kept):
            if indices is not None:
                tensor = tensor.index_select(dimension, indices)
        return tensor * self._embedding_scale() if axes == (TOKEN, HIDDEN) else tensor

    def _embedding_scale(self) -> float:
        """Gemma multiplies its embeddings by the root of the width, which is smaller now."""
        if self.layout.shape.model_type not in SCALED_EMBEDDING:
            return 1.0
        return float((self.layout.shape.hidden_size / len(self.choice.channels)) ** 0.5)

    def _norm(self, name: str, tensor: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """The kept channels' mean square is another than all channels': the norm's weight takes the ratio."""
        if kept is None or len(kept) == len(tensor):
            return tensor
        share = self.shares.get(name.removesuffix(".weight"))
        ratio = 1.0 if share is None else float((share[kept].mean() / share.mean()).sqrt())
        if split(name)[0] is None:  # before a head that may be the embedding, which is scaled
            ratio /= self._embedding_scale()
        gain = (tensor[kept].float() + self.offset) * ratio - self.offset
        return gain.to(tensor.dtype)

    def _kept(self, layer: int | None, axis: str) -> torch.Tensor | None:
        """Indices along an axis; None where all stay."""
        import torch

        if axis == HIDDEN:
            return self.choice.channels
        if layer is None:
            return None
        neurons, shape = self.choice.neurons[layer], self.layout.shape
        shared = shape.heads // shape.num_key_value_heads
        queries, keys = self._heads(layer, shape.head_width * shared), self._heads(layer, shape.head_width)
        after_queries = shape.heads * shape.head_width
        after_keys = after_queries + shape.num_key_value_heads * shape.head_width
        return {
            NEURON: neurons,
            GATE_UP: torch.cat([neurons, shape.intermediate_size + neurons]),
            QUERY: queries,
            KEY: keys,
            QUERY_KEY_VALUE: torch.cat([queries, after_queries + keys, after_keys + keys]),
            HEAD: self._heads(layer, shared),
        }.get(axis)

    def _heads(self, layer: int, width: int) -> torch.Tensor:
        """Rows of the kept groups, where each has this many."""
        import torch

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
