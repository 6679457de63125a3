"""Techniques: Model -> Model, one per module. A technique's fields are its settings; it never uses a measurement.

`jobs.apply` looks the result up by its recipe and builds it in a separate process if it is not in the cache: the
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

from pennyweight.errors import UsageError
from pennyweight.model import Model, Step
from pennyweight.shape import ModelShape

TECHNIQUES = {
    "adapter": "pennyweight.techniques.adapter:MergeAdapter",
    "depth": "pennyweight.techniques.depth:Depth",
    "dequantize": "pennyweight.techniques.dequantize:Dequantize",
    "experts": "pennyweight.techniques.experts:Experts",
    "distill": "pennyweight.techniques.distill:Distill",
    "key_value_heads": "pennyweight.techniques.key_value_heads:KeyValueHeads",
    "language_part": "pennyweight.techniques.language_part:LanguagePart",
    "own_file": "pennyweight.techniques.own_file:OwnFile",
    "quantize": "pennyweight.techniques.quantize:Quantize",
    "sparsity": "pennyweight.techniques.sparsity:Sparsity",
    "unwrap": "pennyweight.techniques.unwrap:Unwrap",
    "vocabulary": "pennyweight.techniques.vocabulary:Vocabulary",
    "width": "pennyweight.techniques.width:Width",
}
# Structure, then vocabulary, then distillation, which recovers the loss; quantization comes after all of them.
APPLIED_IN_ORDER = ("depth", "experts", "width", "key_value_heads", "sparsity", "vocabulary", "distill")

Progress = Callable[..., None]  # (done, total), and a note where the job has one: loss, tokens/s


@dataclass(frozen=True)
class Material:
    """What a search passes to techniques: the shape of the model they change, text to calibrate on, whole prompts, and
    the model that everything was made from."""

    shape: ModelShape
    calibration: tuple[str, ...]
    prompts: tuple[str, ...]
    teacher: Model


@dataclass(frozen=True)
class Technique(ABC):
    """Settings must be JSON values, since the work is done in another process. `packages` enter the recipe."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1  # increase it when the same settings give another result
    # For searches that compose techniques (search/recipes.py): the name in --techniques, the amount that is tried when
    # none is given, and whether it loses nothing. A technique without a `search_name` is not searched.
    search_name: ClassVar[str] = ""
    default_amount: ClassVar[str] = ""
    lossless: ClassVar[bool] = False

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that the result depends on besides the model."""

    @abstractmethod
    def result_kind(self, model: Model) -> tuple[str, str]:
        """(format, scheme) of the result; refuses a model that the technique cannot work on."""

    @abstractmethod
    def build(self, source: Path, target: Path) -> None:
        """Do the work: from the model in `source` into the empty directory `target`. Runs in a job process."""

    @classmethod
    def check_amount(cls, amount: str) -> None:
        """Raise `UsageError` for an amount, as written in --techniques, that this technique cannot apply."""
        raise UsageError(f"{cls.name} takes no amount, so {amount!r} is not possible.")

    @classmethod
    def from_amount(cls, amount: str, material: Material) -> Technique:
        """The technique with settings for this amount."""
        raise UsageError(f"{cls.name} is not searched: it has no settings for {amount!r} of {material.teacher.name}.")

    @classmethod
    def predict_config(cls, config: dict[str, Any], amount: str) -> dict[str, Any]:
        """What config.json will say after it, before anything is built: for predictions and refusals."""
        del amount
        return config

    def step(self) -> Step:
        made_with = {package: metadata.version(package) for package in self.packages}
        return Step(self.name, {**self.settings(), "revision": self.revision}, made_with)


def digest(texts: Sequence[str]) -> dict[str, Any]:
    """What stands for the texts in a recipe."""
    return {"sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16], "texts": len(texts)}


def no_progress(done: int, total: int, note: str = "") -> None:
    """A progress callback that does nothing."""
    del done, total, note


def progress(done: int, total: int, note: str = "") -> None:
    """Print progress in the job process: one line that the parent process matches with `jobs.COUNTED`."""
    print(f"{100 * done // max(total, 1)}%| {done}/{total} {note}", flush=True)


def from_json(place: str, settings: Mapping[str, Any]) -> Technique:
    """The technique of the class at `module:name`, with these settings."""
    return _class_at(place)(**settings)


def _class_at(place: str) -> type[Technique]:
    module, _, attribute = place.partition(":")
    found: type[Technique] = getattr(import_module(module), attribute)
    return found


def searched() -> dict[str, type[Technique]]:
    """The techniques that a search composes, by their names in --techniques, in the order in which they are applied."""
    classes = (_class_at(TECHNIQUES[name]) for name in APPLIED_IN_ORDER)
    return {cls.search_name: cls for cls in classes}


def check_ranking(ranking: str, known: Sequence[str]) -> None:
    """Raise `UsageError` for a ranking that a technique does not have."""
    if ranking not in known:
        raise UsageError(f"The ranking {ranking!r} is unknown: use {', '.join(known)}.")


def share_of(amount: str, name: str) -> float:
    """`20%` -> 0.2."""
    try:
        share = float(amount.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not amount.endswith("%") or not 0 < share < 1:
        raise UsageError(f"--techniques {name}:{amount} is not a share: write {name}:20%.")
    return share


def whole_number(amount: str, name: str, *, least: int) -> int:
    if not amount.isdecimal() or int(amount) < least:
        raise UsageError(f"--techniques {name}:{amount} is not possible: give a whole number, {least} or more.")
    return int(amount)
