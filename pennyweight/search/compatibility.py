"""What works together. Each row names the test or the measurement that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """`verdict` of using both: works, broken or no gain."""

    first: str
    second: str
    verdict: str
    why: str
    evidence: str


TABLE = (
    Row("prune", "vocabulary", "works", "blocks and rows of the embedding are different tensors",
        "tests/contracts/test_surgery.py::test_techniques_compose"),
    Row("prune", "distill", "works", "training wins back what missing blocks cost", "docs/log.md, bench-techniques"),
    Row("kv-heads", "distill", "works", "averaged heads need the training", "docs/log.md, bench-techniques"),
    Row("sparsity", "distill", "broken", "training moves every weight, so the zeros are gone afterwards",
        "tests/techniques/test_distill.py::test_training_fills_zeros"),
)  # fmt: skip
# What loses nothing has nothing to win back: distillation alone, or after these only.
LOSSLESS = ("vocabulary",)


def refusal(techniques: Sequence[str]) -> str | None:
    """Why these techniques are not tried together."""
    for row in TABLE:
        if row.verdict == "broken" and {row.first, row.second} <= set(techniques):
            return f"{row.first} and {row.second} break each other: {row.why} ({row.evidence})"
    lossy = [name for name in techniques if name != "distill" and name not in LOSSLESS]
    if "distill" in techniques and not lossy:
        return "distillation has nothing to win back here"
    return None
