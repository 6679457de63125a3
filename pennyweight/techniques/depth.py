"""Depth pruning: remove the blocks whose removal costs least.

Block influence (Men et al. 2024, arxiv.org/abs/2403.03853) selects some blocks; of these, the one whose removal raises
the measured loss least goes first, then the next with that one gone (as Kim et al. 2024, arxiv.org/abs/2402.02834).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.checks.architecture import check_made
from pennyweight.errors import ModelError, UsageError
from pennyweight.model import Model
from pennyweight.shape import ModelShape
from pennyweight.techniques import activations
from pennyweight.techniques.base import Material, Technique, check_ranking, digest, progress, share_of
from pennyweight.techniques.layout import block_kinds, changeable, check_blocks, renumbered, split, with_blocks

RANKINGS = ("loss", "influence", "random")
REMOVAL_CANDIDATES = 8  # blocks of least influence whose removal is measured


@dataclass(frozen=True)
class Depth(Technique):
    """Keep `layers` blocks, ranked on `calibration` text."""

    layers: int = 1
    ranking: str = "loss"
    calibration: tuple[str, ...] = ()
    seed: int = 0

    name: ClassVar[str] = "depth"
    search_name: ClassVar[str] = "prune"
    default_amount: ClassVar[str] = "10%"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def __post_init__(self) -> None:
        check_ranking(self.ranking, RANKINGS)
        if self.layers < 1:
            raise UsageError(f"--layers {self.layers} leaves nothing: keep 1 or more.")

    @classmethod
    def check_amount(cls, amount: str) -> None:
        share_of(amount, cls.search_name)

    @classmethod
    def from_amount(cls, amount: str, material: Material) -> Technique:
        return Depth(_layers_left(material.shape, amount), "loss", material.calibration)

    @classmethod
    def predict_config(cls, config: dict[str, Any], amount: str) -> dict[str, Any]:
        return with_blocks(config, range(_layers_left(changeable(config), amount)))

    def settings(self) -> dict[str, Any]:
        if self.ranking == "random":
            return {"layers": self.layers, "ranking": "random", "seed": self.seed}
        return {"layers": self.layers, "ranking": self.ranking, "calibration": digest(self.calibration)}

    def result_kind(self, model: Model) -> tuple[str, str]:
        shape = changeable(model.config)
        if self.layers >= shape.layers:
            most = shape.layers - 1
            raise UsageError(f"{model.name} has {shape.layers} layers: --layers must be from 1 to {most}.")
        if model.config.get("scale_attn_by_inverse_layer_idx"):
            raise ModelError(f"{model.name} computes with the numbers of its blocks: none can be removed.")
        if self.ranking != "random" and not self.calibration:
            raise UsageError("Depth pruning needs text to rank the blocks on: name a workload.")
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from pennyweight.weights import Weights, rewrite

        config = whole_config(source)
        shape, tensors = changeable(config), Weights(source).shapes
        check_blocks(tensors, shape)
        places = {old: new for new, old in enumerate(self._kept(source, shape, block_kinds(config, shape, tensors)))}

        def renumber(name: str, tensor: Any) -> list[tuple[str, Any]]:
            layer, _ = split(name)
            if layer is None:
                return [(name, tensor)]
            return [(renumbered(name, places[layer]), tensor)] if layer in places else []

        rewrite(source, target, with_blocks(config, sorted(places)), renumber)
        check_made(target)

    def _kept(self, source: Path, shape: ModelShape, kinds: Sequence[str]) -> list[int]:
        everything = list(range(shape.layers))
        if self.ranking == "random":
            costs = dict(zip(everything, random.Random(self.seed).sample(everything, shape.layers), strict=True))
            return select(costs, kinds, self.layers)
        model = activations.load(source)
        batches = activations.windows(source, self.calibration)
        influence = dict(enumerate(activations.collect(model, batches).influence))
        if self.ranking == "influence" or kinds:
            return select(influence, kinds, self.layers)

        owner, name = activations.owner_of_blocks(model)
        blocks = getattr(owner, name)

        def loss_without(kept: Sequence[int]) -> float:
            setattr(owner, name, type(blocks)([blocks[i] for i in kept]))
            return activations.loss(model, batches)

        return least_loss(everything, self.layers, influence, loss_without)


def whole_config(source: Path) -> dict[str, Any]:
    """config.json with what files leave out because it is usual, such as which blocks have a window: of fewer blocks,
    it would be computed otherwise."""
    from transformers import AutoConfig

    return {**Model.config_of(source), **AutoConfig.from_pretrained(source).to_dict()}


def select(costs: Mapping[int, float], kinds: Sequence[str], keep: int) -> list[int]:
    """Of all ways to keep `keep` layers whose kinds repeat the model's own pattern from its start, the one with the
    highest sum of costs. Engines hard-wire the pattern (llama.cpp: every sixth layer of Gemma-3 is global)."""
    types = list(kinds) or ["same"] * len(costs)
    best: list[tuple[float, list[int]] | None] = [(0.0, []), *[None] * keep]
    for layer in sorted(costs):
        for place in range(keep, 0, -1):
            before = best[place - 1]
            if before is None or types[layer] != types[place - 1]:
                continue
            total = before[0] + costs[layer]
            held = best[place]
            if held is None or total > held[0]:
                best[place] = (total, [*before[1], layer])
    found = best[keep]
    if found is None:
        raise ModelError(f"No {keep} layers repeat the pattern {types[: keep + 1]}: keep another number.")
    return found[1]


def least_loss(
    layers: Sequence[int], keep: int, influence: Mapping[int, float], loss_without: Callable[[Sequence[int]], float]
) -> list[int]:
    """Remove one layer at a time: of those with the least influence, the one whose removal raises the loss least."""
    kept = list(layers)
    steps = len(kept) - keep
    for step in range(steps):
        suspects = sorted(kept, key=lambda i: influence[i])[:REMOVAL_CANDIDATES]
        losses = {}
        for done, suspect in enumerate(suspects):
            losses[suspect] = loss_without([i for i in kept if i != suspect])
            progress(step * REMOVAL_CANDIDATES + done + 1, steps * REMOVAL_CANDIDATES)
        kept.remove(min(losses, key=lambda i: losses[i]))
    return kept


def layers_for(shape: ModelShape, parameters: int) -> int:
    """How many blocks fit into this many parameters."""
    outside = shape.parameters - shape.layers * shape.layer_parameters
    layers = (parameters - outside) // shape.layer_parameters
    if layers < 1:
        raise UsageError(
            f"{parameters / 1e6:.1f}M parameters leave no block: the embedding alone has {outside / 1e6:.1f}M "
            "(pw trim-vocabulary makes it smaller)."
        )
    return min(int(layers), shape.layers)


def _layers_left(shape: ModelShape, amount: str) -> int:
    return max(1, round(shape.layers * (1 - share_of(amount, Depth.search_name))))
