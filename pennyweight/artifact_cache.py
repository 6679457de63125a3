"""The artifacts in the cache: how large they are, what they were made of, when they were last used; and their
removal."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pennyweight.checkpoint import locked
from pennyweight.model import LINEAGE_FILE
from pennyweight.paths import cache_directory


@dataclass(frozen=True)
class Entry:
    """One artifact, or what an interrupted build left. `made_of` names model and steps."""

    path: Path
    bytes: int
    unused_seconds: float
    made_of: str

    @property
    def id(self) -> str:
        return self.path.name


def entries() -> list[Entry]:
    """The largest first."""
    folder = cache_directory() / "models"
    found = [_entry(path) for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda entry: -entry.bytes)


def prune(found: Sequence[Entry], unused_seconds: float) -> list[Entry]:
    """Remove those that were not used for this long; returns them. One that is being built is left alone."""
    removed = []
    for entry in found:
        if entry.unused_seconds < unused_seconds:
            continue
        with locked(entry.path.with_name(f"{entry.id.split('.')[0]}.lock")):
            shutil.rmtree(entry.path, ignore_errors=True)
        removed.append(entry)
    return removed


def _entry(path: Path) -> Entry:
    files = [file for file in path.rglob("*") if file.is_file()]
    states = [file.stat() for file in files]
    used = max((max(state.st_atime, state.st_mtime) for state in states), default=path.stat().st_mtime)
    return Entry(path, sum(state.st_size for state in states), max(0.0, time.time() - used), _made_of(path))


def _made_of(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        lineage = json.loads((path / LINEAGE_FILE).read_text(encoding="utf-8"))["lineage"]
        steps = [f"{step['technique']} {step['settings'].get('scheme', '')}".strip() for step in lineage["steps"]]
        return " > ".join([lineage["name"], *steps])
    return "an interrupted build"
