"""Activation statistics of a model on calibration text, by which pruning ranks.

Runs in the job process, where torch may be imported.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pennyweight.errors import ModelError
from pennyweight.techniques.layout import NORM
from pennyweight.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

WINDOW = 256  # tokens read at once
MAX_WINDOWS = 32
MIN_TOKENS = 2048  # with fewer the ranking depends on chance
BATCH = 4


@dataclass
class Activations:
    """`squares`: per linear layer (by module name), mean square of each input feature; `shares`: per norm, the share
    that each channel has of its input's mean square, 1 on average. `influence`: per block, 1 - cosine similarity of
    what goes in and what comes out (Men et al. 2024, arxiv.org/abs/2403.03853)."""

    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    shares: dict[str, torch.Tensor] = field(default_factory=dict)
    influence: list[float] = field(default_factory=list)


def load(source: Path) -> Any:
    """The model, in bfloat16 if the checkpoint is, else in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    return model.to(torch.float32 if model.dtype == torch.float16 else model.dtype).eval()


def windows(source: Path, texts: Sequence[str]) -> list[torch.Tensor]:
    """The texts as one stream of tokens, cut into batches [BATCH, WINDOW]; refuses a text that is too short."""
    import json

    import torch

    tokenizer = Tokenizer(source)
    stream = [token for text in texts for token in tokenizer.encode(text)]
    if len(stream) < MIN_TOKENS:
        raise ModelError(
            f"The calibration text has {len(stream)} tokens and {MIN_TOKENS} are needed for a reliable "
            "ranking: give a longer workload."
        )
    context = json.loads((source / "config.json").read_text()).get("max_position_embeddings", WINDOW)
    length = min(WINDOW, context)
    count = min(MAX_WINDOWS, len(stream) // length)
    rows = torch.tensor(stream[: count * length]).reshape(count, length)
    return [rows[start : start + BATCH] for start in range(0, count, BATCH)]


def collect(model: Any, batches: Sequence[torch.Tensor]) -> Activations:
    """Read the batches once and keep the statistics."""
    import torch

    owner, name = owner_of_blocks(model)
    found = Activations(influence=[0.0] * len(getattr(owner, name)))
    with _Hooks(model, found, sum(batch.numel() for batch in batches)), torch.inference_mode():
        for batch in batches:
            model(input_ids=batch, use_cache=False)
    return found


def owner_of_blocks(model: Any) -> tuple[Any, str]:
    """The module that holds the list of blocks, and the list's name in it."""
    import torch

    layers = int(model.config.get_text_config().num_hidden_layers)
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == layers:
                return owner, name
    raise ModelError(f"A {type(model).__name__} keeps its {layers} blocks in no list: they cannot be ranked.")


def adds_one(model: Any) -> bool:
    """Do its norms multiply by one more than their weight, as Gemma's do?"""
    import torch

    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() == 1 and NORM.search(name.rpartition(".")[2]):
            zero = copy.deepcopy(module)
            with torch.no_grad():
                for parameter in zero.parameters():
                    parameter.zero_()
                return bool(zero(torch.linspace(-1, 1, len(weight), dtype=weight.dtype)).abs().max() > 0)
    return False


def loss(model: Any, batches: Sequence[torch.Tensor]) -> float:
    """Mean cross-entropy per token in nats."""
    import torch

    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            wanted = batch[:, 1:].flatten()
            total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum"))
            count += batch[:, 1:].numel()
    return total / count


class _Hooks:
    """Forward hooks on every linear layer and every block, gone when the context ends."""

    def __init__(self, model: Any, found: Activations, tokens: int) -> None:
        self.model, self.found, self.tokens = model, found, tokens
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        import torch

        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Linear):
                self.handles.append(module.register_forward_pre_hook(self._input_of(name)))
            elif NORM.search(name.rpartition(".")[2]) and getattr(module, "weight", None) is not None:
                self.handles.append(module.register_forward_pre_hook(self._into_norm(name)))
        owner, name = owner_of_blocks(self.model)
        for number, block in enumerate(getattr(owner, name)):
            self.handles.append(block.register_forward_hook(self._through(number), with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _input_of(self, name: str) -> Any:
        def hook(_module: Any, args: tuple[Any, ...]) -> None:
            square = args[0].flatten(0, -2).float().square().sum(0) / self.tokens
            self.found.squares[name] = self.found.squares.get(name, 0) + square

        return hook

    def _into_norm(self, name: str) -> Any:
        def hook(module: Any, args: tuple[Any, ...]) -> None:
            given = args[0].flatten(0, -2).float()
            if getattr(module, "bias", None) is not None:  # a layer norm takes the mean off
                given = given - given.mean(-1, keepdim=True)
            square = given.square()
            share = (square / square.mean(-1, keepdim=True).clamp_min(1e-12)).sum(0) / self.tokens
            self.found.shares[name] = self.found.shares.get(name, 0) + share

        return hook

    def _through(self, number: int) -> Any:
        import torch

        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = (args[0] if args else kwargs["hidden_states"]).float()
            after = (output[0] if isinstance(output, tuple) else output).float()
            away = 1 - torch.nn.functional.cosine_similarity(before, after, dim=-1)
            self.found.influence[number] += float(away.sum()) / self.tokens

        return hook
