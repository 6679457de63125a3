"""Which techniques and which presets of an engine can be combined: shown by a test, or by measuring each pair.

`compatibility.json` and docs/compatibility.md are written by benchmarks/compatibility.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import combinations
from typing import Any

from pennyweight.techniques.base import searched

VERDICTS = ("works", "broken", "no gain")
TABLE_FILE = "compatibility.json"


@dataclass(frozen=True)
class Row:
    """`verdict` of using both: works, broken or no gain."""

    first: str
    second: str
    verdict: str
    why: str
    evidence: str


TABLE = (
    Row(
        "prune",
        "vocabulary",
        "works",
        "blocks and rows of the embedding are different tensors",
        "tests/contracts/test_surgery.py::test_techniques_compose",
    ),
    Row("prune", "distill", "works", "training wins back what missing blocks cost", "docs/log/techniques.md"),
    Row("kv-heads", "distill", "works", "averaged heads need the training", "docs/log/techniques.md"),
    Row(
        "sparsity",
        "distill",
        "broken",
        "training moves every weight, so the zeros are gone afterwards",
        "tests/techniques/test_distill.py::test_training_fills_zeros",
    ),
)


@dataclass(frozen=True)
class Pair:
    """Two presets of one engine, as measured. `agreement` is the share of greedy tokens up to the first that differs
    from the engine's own without presets; `speed` is against the faster of the two alone."""

    engine: str
    first: str
    second: str
    verdict: str
    agreement: float
    speed: float
    why: str = ""


@cache
def table() -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(resources.files(__package__).joinpath(TABLE_FILE).read_text(encoding="utf-8"))
    return found


def pairs() -> tuple[Pair, ...]:
    return tuple(Pair(**row) for row in table()["pairs"])


def measured_on() -> Mapping[str, str]:
    """Version, machine and date of each engine's measurement."""
    found: dict[str, str] = table()["measured_on"]
    return found


def refusal(techniques: Sequence[str]) -> str | None:
    """Why these techniques are not tried together."""
    for row in TABLE:
        if row.verdict == "broken" and {row.first, row.second} <= set(techniques):
            return f"{row.first} and {row.second} break each other: {row.why} ({row.evidence})"
    known = searched()
    lossy = [name for name in techniques if name != "distill" and not (name in known and known[name].lossless)]
    if "distill" in techniques and not lossy:
        return "distillation has no loss to recover here"
    return None


def conflict(
    engine: str,
    settings: Mapping[str, Any],
    presets: Mapping[str, Mapping[str, Any]],
    known: Sequence[Pair] | None = None,
) -> str | None:
    """Why these settings of an engine are refused: two of its presets that break each other."""
    pulled = [name for name, preset in presets.items() if is_enabled(preset, settings)]
    for pair in pairs() if known is None else known:
        if pair.engine == engine and pair.verdict == "broken" and {pair.first, pair.second} <= set(pulled):
            return (
                f"{engine}: {pair.first} and {pair.second} break each other: {pair.why} "
                f"(docs/compatibility.md, {engine} {measured_on().get(engine, '')}). Leave one of them out."
            )
    return None


def is_enabled(preset: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether `settings` contain the whole preset. A placeholder <…> in the preset matches any value."""
    return all(
        name in settings and (settings[name] == value or str(value).startswith("<")) for name, value in preset.items()
    )


def combinable(presets: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of presets that do not set the same thing."""
    return [(a, b) for a, b in combinations(presets, 2) if not presets[a].keys() & presets[b].keys()]


def as_markdown() -> str:
    """docs/compatibility.md."""
    lines = [
        "# What works together",
        "",
        "Written by `python -m benchmarks.compatibility`; do not edit. Each pair of presets of each engine ran once on "
        "SmolLM2-135M-Instruct, ends of prompts of `extract`.",
        "",
        "*Agreement*: share of greedy tokens up to the first that differs from the engine without presets. *Speed*: "
        "against the faster of the two alone, at one stream. *broken*: it fails, or agrees clearly less than either "
        "alone, twice; refused. *no gain*: slower than the faster of the two alone, twice.",
        "",
        *(f"* {engine} {description}" for engine, description in measured_on().items()),
        "",
        "Of an engine that is not listed nothing was measured, and nothing is refused.",
        "",
        "| engine | preset | preset | verdict | agreement | speed | |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in pairs():
        figures = f"{pair.agreement:.2f} | {pair.speed:.2f}"
        lines.append(f"| {pair.engine} | {pair.first} | {pair.second} | {pair.verdict} | {figures} | {pair.why} |")
    lines += ["", "## Techniques", "", "| technique | technique | verdict | | evidence |", "|---|---|---|---|---|"]
    lines += [f"| {row.first} | {row.second} | {row.verdict} | {row.why} | {row.evidence} |" for row in TABLE]
    return "\n".join(lines) + "\n"
