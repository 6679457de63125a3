"""A technique of one's own: weights beyond a multiple of their standard deviation are clipped.

It is a module of its own because the work runs in another process, which imports it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pennyweight import Model
from pennyweight.techniques import Technique

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ClipWeights(Technique):
    """`deviations` is where a weight is cut off, in standard deviations of its matrix."""

    deviations: float = 4.0

    name: ClassVar[str] = "clip_weights"

    def settings(self) -> dict[str, Any]:
        return {"deviations": self.deviations}

    def result_kind(self, model: Model) -> tuple[str, str]:
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from pennyweight.weights import rewrite

        def clip(name: str, tensor: "torch.Tensor") -> list[tuple[str, "torch.Tensor"]]:
            if tensor.ndim != 2:
                return [(name, tensor)]
            bound = self.deviations * float(tensor.float().std())
            return [(name, tensor.clamp(-bound, bound))]

        rewrite(source, target, Model.config_of(source), clip)
