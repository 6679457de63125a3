"""Unstructured pruning: single weights become zero, by magnitude or by Wanda (Sun et al. 2023,
arxiv.org/abs/2306.11695: magnitude times the norm of what the weight is multiplied with).

No engine here gets faster from it: they multiply by the zeros. It is offered because users ask for it and should
see a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pennyweight.errors import UsageError
from pennyweight.model import Model
from pennyweight.techniques import activations
from pennyweight.techniques.base import Material, Technique, digest
from pennyweight.techniques.layout import Layout, changeable, split

if TYPE_CHECKING:
    import torch

CRITERIA = ("wanda", "magnitude", "random")
PATTERNS = ("50%", "2:4")


@dataclass(frozen=True)
class Sparsity(Technique):
    """Half of every block matrix's weights become zero: `50%` of each row, or `2:4` two of every four neighbours."""

    pattern: str = "50%"
    criterion: str = "wanda"
    calibration: tuple[str, ...] = ()

    name: ClassVar[str] = "sparsity"
    search_name: ClassVar[str] = "sparsity"
    default_amount: ClassVar[str] = "2:4"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA or self.pattern not in PATTERNS:
            raise UsageError(
                f"Sparsity {self.pattern!r} by {self.criterion!r} is unknown: use {' or '.join(PATTERNS)} "
                f"by {', '.join(CRITERIA)}."
            )

    @classmethod
    def check_amount(cls, amount: str) -> None:
        Sparsity(amount)

    @classmethod
    def from_amount(cls, amount: str, material: Material) -> Technique:
        return Sparsity(amount, "wanda", material.calibration)

    def settings(self) -> dict[str, Any]:
        made: dict[str, Any] = {"pattern": self.pattern, "criterion": self.criterion}
        if self.criterion == "wanda":
            made["calibration"] = digest(self.calibration)
        return made

    def result_kind(self, model: Model) -> tuple[str, str]:
        changeable(model.config)
        if self.criterion == "wanda" and not self.calibration:
            raise UsageError("Wanda needs text to see what the weights are multiplied with: name a workload.")
        Layout.of_model(model).refuse_unknown()
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        import torch

        from pennyweight.weights import Weights, rewrite

        config = Model.config_of(source)
        layout = Layout.of(changeable(config), Weights(source).shapes)
        squares: dict[str, torch.Tensor] = {}
        if self.criterion == "wanda":
            batches = activations.windows(source, self.calibration)
            squares = activations.collect(activations.load(source), batches).squares
        generator = torch.Generator().manual_seed(0)

        def thin(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
            if split(name)[0] is None or len(layout.axes[name]) != 2:
                return [(name, tensor)]
            scores = tensor.float().abs()
            if self.criterion == "wanda":
                scores *= squares[name.removesuffix(".weight")].sqrt()
            elif self.criterion == "random":
                scores = torch.rand(scores.shape, generator=generator)
            return [(name, tensor * keep_mask(scores, self.pattern).to(tensor.dtype))]

        rewrite(source, target, config, thin)


def keep_mask(scores: torch.Tensor, pattern: str) -> torch.Tensor:
    """True where the better half stays: of each row, or of every four neighbours in it. `scores` [rows, features]."""
    import torch

    grouped = scores.reshape(-1, 4) if pattern == "2:4" else scores
    kept = torch.topk(grouped, grouped.shape[1] // 2, dim=1).indices
    mask = torch.zeros_like(grouped, dtype=torch.bool).scatter_(1, kept, True)
    return mask.reshape(scores.shape)
