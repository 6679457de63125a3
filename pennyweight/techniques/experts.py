"""Fewer experts: those that add least to what their blocks give are dropped, and the router loses their rows.

Ranked by REAP (Lasby et al. 2025, arxiv.org/abs/2510.13999): the mean, over the tokens that an expert gets, of its
router weight times the norm of its output. Memory falls with the experts; the work for a token stays, because each
still goes to as many.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pennyweight.checks.architecture import check_made
from pennyweight.errors import ModelError, UsageError
from pennyweight.model import Model
from pennyweight.shape import EXPERT_COUNTS, ModelShape
from pennyweight.techniques import activations
from pennyweight.techniques.base import Material, Technique, check_ranking, digest, progress, share_of
from pennyweight.techniques.layout import changeable, split

if TYPE_CHECKING:
    import torch

RANKINGS = ("reap", "frequency", "random")
ONE_EXPERT = re.compile(r"(.*\bexperts)\.(\d+)\.(.+)")
ROUTED = re.compile(r"expert|gate|router|moe")  # in names of tensors with a row or a number for each expert


@dataclass(frozen=True)
class Experts(Technique):
    """Keep `experts` of each block's experts, ranked on `calibration` text."""

    experts: int = 1
    ranking: str = "reap"
    calibration: tuple[str, ...] = ()
    seed: int = 0

    name: ClassVar[str] = "experts"
    search_name: ClassVar[str] = "experts"
    default_amount: ClassVar[str] = "25%"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def __post_init__(self) -> None:
        check_ranking(self.ranking, RANKINGS)

    @classmethod
    def check_amount(cls, amount: str) -> None:
        share_of(amount, cls.search_name)

    @classmethod
    def from_amount(cls, amount: str, material: Material) -> Technique:
        return Experts(_experts_left(material.shape, amount), "reap", material.calibration)

    @classmethod
    def predict_config(cls, config: dict[str, Any], amount: str) -> dict[str, Any]:
        return with_experts(config, _experts_left(changeable(config), amount))

    def settings(self) -> dict[str, Any]:
        if self.ranking == "random":
            return {"experts": self.experts, "ranking": "random", "seed": self.seed}
        return {"experts": self.experts, "ranking": self.ranking, "calibration": digest(self.calibration)}

    def result_kind(self, model: Model) -> tuple[str, str]:
        shape, groups = changeable(model.config), int(model.config.get("n_group") or 1)
        if not shape.experts:
            raise UsageError(f"{model.name} is a dense {shape.model_type} model: it has no experts to drop.")
        if not max(1, shape.experts_per_token) <= self.experts < shape.experts:
            raise UsageError(
                f"--experts {self.experts} is not possible: {model.name} has {shape.experts} and each token goes to "
                f"{shape.experts_per_token}, so keep from {max(1, shape.experts_per_token)} to {shape.experts - 1}."
            )
        if not shape.experts_per_token:
            raise ModelError(f"config.json of {model.name} does not say to how many experts a token goes.")
        self._refuse_groups(model, shape, groups)
        if self.ranking != "random" and not self.calibration:
            raise UsageError("Ranking experts needs text to see which are used: name a workload.")
        return "huggingface", model.scheme

    def _refuse_groups(self, model: Model, shape: ModelShape, groups: int) -> None:
        """Of a router that first chooses among groups of experts."""
        if self.experts % groups:
            raise UsageError(
                f"--experts {self.experts} does not divide into the {groups} groups of {model.name}'s router: keep a "
                f"multiple of {groups}."
            )
        chosen = int(model.config.get("topk_group") or groups)
        least = max(2, -(-shape.experts_per_token // chosen))  # of a group: routers add up the best two
        if groups > 1 and self.experts // groups < least:
            raise UsageError(
                f"--experts {self.experts} leaves too few in each of the {groups} groups of {model.name}'s router: "
                f"keep {least * groups} or more."
            )

    def build(self, source: Path, target: Path) -> None:
        import torch

        from pennyweight.weights import rewrite

        config = Model.config_of(source)
        shape, groups = changeable(config), int(config.get("n_group") or 1)
        model = activations.load(source)
        if self.ranking == "random":
            generator = torch.Generator().manual_seed(self.seed)
            names = [name for name, _ in expert_modules(model)]
            importance = {name: torch.rand(shape.experts, generator=generator) for name in names}
        else:
            batches = activations.windows(source, self.calibration)
            importance = rank(model, batches, by_output=self.ranking == "reap")
        del model
        kept = {split(f"{name}.")[0]: best(values, self.experts, groups) for name, values in importance.items()}

        def drop(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
            chosen = kept.get(split(name)[0])
            return [(name, tensor)] if chosen is None else without(name, tensor, chosen, shape.experts)

        rewrite(source, target, with_experts(config, self.experts), drop)
        check_made(target)


def expert_modules(model: Any) -> list[tuple[str, Any]]:
    """(name, module) of each block's experts. transformers calls all of them as (states [tokens, hidden], experts
    [tokens, k], weights [tokens, k])."""
    return [(name, module) for name, module in model.named_modules() if name.endswith(".experts")]


def rank(model: Any, batches: Sequence[torch.Tensor], *, by_output: bool) -> dict[str, torch.Tensor]:
    """Module name -> the importance of each expert: REAP's, or the number of tokens that it gets."""
    import torch

    found: dict[str, torch.Tensor] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given_all = (*args, *kwargs.values())
            if len(given_all) < 3:
                raise ModelError(f"{type(module).__name__} routes its experts in a way that is not known here.")
            states, chosen, weights = given_all[:3]
            counted = found.setdefault(name, torch.zeros(2, module.num_experts))
            for expert in chosen.unique().tolist():
                tokens, place = torch.where(chosen == expert)
                counted[0, expert] += len(tokens)
                if by_output:
                    alone = torch.full((len(tokens), 1), expert)
                    given = module.forward(states[tokens], alone, torch.ones_like(alone, dtype=states.dtype))
                    counted[1, expert] += (given.float().norm(dim=-1) * weights[tokens, place].float()).sum()

        return hook

    for name, module in expert_modules(model):
        handles.append(module.register_forward_pre_hook(watch(name), with_kwargs=True))
    with torch.inference_mode():
        for done, batch in enumerate(batches):
            model(input_ids=batch, use_cache=False)
            progress(done + 1, len(batches))
    for handle in handles:
        handle.remove()
    return {name: both[1] / both[0].clamp_min(1) if by_output else both[0] for name, both in found.items()}


def best(importance: torch.Tensor, keep: int, groups: int) -> torch.Tensor:
    """Sorted indices of the most important experts, equally many of each group of neighbours."""
    import torch

    size = len(importance) // groups
    chosen = torch.topk(importance.reshape(groups, size), keep // groups, dim=1).indices
    return torch.sort((chosen + torch.arange(groups)[:, None] * size).flatten()).values


def without(name: str, tensor: torch.Tensor, kept: torch.Tensor, experts: int) -> list[tuple[str, torch.Tensor]]:
    """The tensor with the kept experts' rows; one that belongs to a single expert gets its new number, or goes."""
    single = ONE_EXPERT.fullmatch(name)
    if single:
        places = {old: new for new, old in enumerate(kept.tolist())}
        place = places.get(int(single[2]))
        return [] if place is None else [(f"{single[1]}.{place}.{single[3]}", tensor)]
    if (not ROUTED.search(name) and tensor.dim() < 3) or "shared" in name:
        return [(name, tensor)]
    if tensor.shape[:1] == (experts,):
        return [(name, tensor[kept])]
    return [(name, tensor[:, kept] if tuple(tensor.shape) == (1, experts) else tensor)]


def with_experts(config: dict[str, Any], experts: int) -> dict[str, Any]:
    return {**config, **{name: experts for name in EXPERT_COUNTS if config.get(name)}}


def _experts_left(shape: ModelShape, amount: str) -> int:
    if not shape.experts:
        raise UsageError(f"A dense {shape.model_type} model has no experts to drop.")
    return max(1, shape.experts_per_token, round(shape.experts * (1 - share_of(amount, Experts.search_name))))
