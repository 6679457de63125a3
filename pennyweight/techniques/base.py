"""Techniques: Model -> Model, one a module. A technique's class is its settings; it never asks for a measurement.

`apply` looks the result up by its recipe and builds it, in a process of its own, only if it is not there yet: the
libraries that do the work take gigabytes, print as they like and patch each other.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.model import Model, Step

TECHNIQUES = {
    "depth": "pennyweight.techniques.depth:Depth",
    "dequantize": "pennyweight.techniques.dequantize:Dequantize",
    "distill": "pennyweight.techniques.distill:Distill",
    "key_value_heads": "pennyweight.techniques.key_value_heads:KeyValueHeads",
    "quantize": "pennyweight.techniques.quantize:Quantize",
    "sparsity": "pennyweight.techniques.sparsity:Sparsity",
    "vocabulary": "pennyweight.techniques.vocabulary:Vocabulary",
    "width": "pennyweight.techniques.width:Width",
}

Progress = Callable[..., None]  # (done, total), and a note where the job has one: loss, tokens/s


@dataclass(frozen=True)
class Technique(ABC):
    """Settings must be JSON values, since the work is done in another process. `packages` enter the recipe."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1  # raise it when the same settings come to give another result

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the result depends on, without what the model says already."""

    @abstractmethod
    def result_kind(self, model: Model) -> tuple[str, str]:
        """(format, scheme) of the result; refuses a model that the technique cannot work on."""

    @abstractmethod
    def build(self, source: Path, target: Path) -> None:
        """Do the work: from the model in `source` into the empty directory `target`. Runs in a job process."""

    def step(self) -> Step:
        made_with = {package: metadata.version(package) for package in self.packages}
        return Step(self.name, {**self.settings(), "revision": self.revision}, made_with)


def digest(texts: Sequence[str]) -> dict[str, Any]:
    """How texts stand in a recipe."""
    return {"sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16], "texts": len(texts)}


def unwatched(done: int, total: int, note: str = "") -> None:
    """Progress that nobody looks at."""
    del done, total, note


def progress(done: int, total: int, note: str = "") -> None:
    """Said in the job process: one line that `COUNTED` reads in the other."""
    print(f"{100 * done // max(total, 1)}%| {done}/{total} {note}", flush=True)


def from_json(name: str, settings: Mapping[str, Any]) -> Technique:
    module, _, attribute = TECHNIQUES[name].partition(":")
    made: Technique = getattr(import_module(module), attribute)(**settings)
    return made
