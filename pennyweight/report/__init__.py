"""Study and evidence -> one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pennyweight.study import Trial


def sentences(evidence: Mapping[str, Any]) -> list[str]:
    return [str(evidence["verdict"]), str(evidence["speedup"])]


def nearest_sentence(evidence: Mapping[str, Any]) -> str:
    return "infeasible"


def write(path: Path, evidence: Mapping[str, Any], trials: Sequence[Trial]) -> Path:
    return path
