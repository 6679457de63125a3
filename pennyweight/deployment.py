"""Deployment: one engine, one model, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pennyweight.model import Model, canonical_hash

Group = tuple[str, str, str]  # engine, scheme, name of the recipe
SHORT = {
    "enable_prefix_caching": "prefix caching",
    "kv_cache_dtype": "KV cache {}",
    "max_num_seqs": "{} sequences",
    "num_threads": "{} threads",
    "max_model_len": "{} tokens",
    "inference_precision": "{} arithmetic",
    "allow_spinning": "spinning threads",
    "flash_attention": "flash attention {}",
    "speculative_method": "speculation by {}",
    "draft_tolerance": "draft tolerance {}",
}
UNSET = (False, 0, "", "auto", -1)  # values that mean the engine's default


@dataclass(frozen=True)
class Deployment:
    """`model_path` is a directory; in a file it may be relative to the file. `recipe` names the techniques that changed
    the model before it was quantized. `speculation_pays_up_to` is the number of streams up to which speculative
    decoding was measured to be faster, 0 where it was not: advice, and no part of what is served."""

    engine: str
    model_path: str
    model_id: str
    scheme: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    model_name: str = field(default="", compare=False)
    speculation_pays_up_to: int = field(default=0, compare=False)

    @staticmethod
    def of(model: Model, engine: str, **settings: Any) -> Deployment:
        """This model on this engine. The settings are checked when it is opened."""
        return Deployment(engine, str(model.path), model.id, model.scheme, settings, model_name=model.name)

    @property
    def id(self) -> str:
        """Depends on everything that changes what is served, not on paths."""
        return canonical_hash(
            {"engine": self.engine, "model": self.model_id, "scheme": self.scheme, "settings": dict(self.settings)}
            | ({"recipe": self.recipe} if self.recipe else {})
        )

    @property
    def group(self) -> Group:
        """Engine, scheme and recipe: what deployments share that differ in settings only."""
        return (self.engine, self.scheme, self.recipe)

    @property
    def label(self) -> str:
        """Short enough for a table row."""
        flags = " ".join(f"{name}={value}" for name, value in sorted(self.settings.items()))
        return " ".join(filter(None, (self.engine, self.scheme, self.recipe, flags)))

    @property
    def short_label(self) -> str:
        """For people: only what is switched on or set, in short names."""
        parts = [_short(name, value) for name, value in sorted(self.settings.items())]
        flags = ", ".join(part for part in parts if part)
        return " ".join(filter(None, (self.engine, self.scheme, self.recipe))) + (f" ({flags})" if flags else "")


def _short(name: str, value: Any) -> str:
    if value in UNSET:
        return ""
    form = SHORT.get(name, name if value is True else f"{name}={{}}")
    return form.format(value)
