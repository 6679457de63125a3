"""Model: a checkpoint on disk and how it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyweight.paths import absolute
from pennyweight.schemes import ModelFormat

LINEAGE_FILE = "lineage.json"


def canonical_hash(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Step:
    """One technique applied to a model: its settings and the versions of what did the work."""

    technique: str
    settings: Mapping[str, Any]
    made_with: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """The recipe of a model: the user's files by checksum, then every step applied to them."""

    name: str
    source_files: Mapping[str, str]  # file name -> SHA-256
    steps: tuple[Step, ...] = ()

    @property
    def id(self) -> str:
        """Equal recipes have equal ids; the name is for people and takes no part."""
        steps = [
            {"technique": step.technique, "settings": dict(step.settings), "made_with": dict(step.made_with)}
            for step in self.steps
        ]
        return canonical_hash({"source": dict(self.source_files), "steps": steps})

    def then(self, step: Step) -> Lineage:
        return Lineage(self.name, self.source_files, (*self.steps, step))


@dataclass(frozen=True)
class Model:
    """A directory that an engine can load. `format` is huggingface, gguf or onnx; `scheme` names its weights."""

    path: Path
    format: ModelFormat
    scheme: str
    lineage: Lineage

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", absolute(self.path))

    @property
    def id(self) -> str:
        return self.lineage.id

    @property
    def name(self) -> str:
        return self.lineage.name

    @property
    def config(self) -> dict[str, Any]:
        """The Hugging Face `config.json`, which every format carries along."""
        return self.config_of(self.path)

    @staticmethod
    def config_of(directory: Path) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((directory / "config.json").read_text())
        return value

    @property
    def context_length(self) -> int:
        return int(self.config.get("max_position_embeddings", 2048))

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights on disk: what a decoding step has to read."""
        suffixes = {"huggingface": ".safetensors", "gguf": ".gguf", "onnx": ".data"}
        files = [f for f in self.path.iterdir() if f.name.endswith(suffixes[self.format])]
        return sum(f.stat().st_size for f in files)
