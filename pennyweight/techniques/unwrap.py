"""A checkpoint whose tensors all carry a trainer's prefix (`_orig_mod.` of torch.compile, `base_model.model.` of PEFT),
under the names that its architecture has. Loaders match names, and fill in at random what they do not find."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.model import Model
from pennyweight.techniques.base import Technique


@dataclass(frozen=True)
class Unwrap(Technique):
    prefix: str

    name: ClassVar[str] = "unwrap"

    def settings(self) -> dict[str, Any]:
        return {"prefix": self.prefix}

    def result_kind(self, model: Model) -> tuple[str, str]:
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from pennyweight.weights import rewrite

        rewrite(
            source, target, Model.config_of(source), lambda name, tensor: [(name.removeprefix(self.prefix), tensor)]
        )
