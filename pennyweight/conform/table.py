"""The table of what each engine serves right: filled by trying, kept in the package, and shown as a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pennyweight.conform.cases import CASES
from pennyweight.engines.base import engine_class
from pennyweight.engines.conformance import FILE, read_table
from pennyweight.features import features

ENGINES = ("transformers", "openvino", "onnxruntime", "llamacpp", "vllm")
WORDS = {"right": "right", "refused": "refused", "failed": "refused: fails", "wrong": "refused: wrong"}
PAGE = """# Conformance

Which engine serves which architecture right. Each cell was filled by serving a tiny random model and holding what it
scores and generates against stock transformers {transformers}: prompts of 5, 33 and 90 tokens, each alone and all
together, in full precision and in 8 bits (Q8_0, INT8). *right*: scores within 0.05 nats in full precision and 0.06 in
8 bits on average, and the same greedy tokens but for near ties. *refused*: the converter or the engine does not take
it. *refused: fails*: it loads, and a request ends in an error. *refused: wrong*: it would be served and answer
something else, so it is refused, with what was seen.

vllm was tried on a CPU, in float32 without compilation, on models with heads twice as wide (it has no attention for
heads of 16 there) and in full precision only. What it serves on a GPU are other kernels of the same model code.

A model is admitted to an engine if its `model_type` was right there, and so was each thing that its config asks for
beside it. Made by `pw engines conform` on {made}: {versions}.

| architecture | `model_type` | {engines} |
|---|---|{dashes}|
{rows}

## What was seen where an engine is wrong or refuses

{evidence}
"""


def fill(engine: str, progress: Callable[[int, int, str], None]) -> dict[str, dict[str, str]]:
    """Case name -> {"result", "evidence"}. A case that takes the process down is wrong, and the others go on without
    it."""
    found: dict[str, dict[str, str]] = {}
    while left := [case.name for case in CASES if case.name not in found]:
        for row in _rows(engine, left):
            found[row["case"]] = {"result": row["result"], "evidence": row["evidence"]}
            progress(len(found), len(CASES), row["case"])
        crashed = next((name for name in left if name not in found), None)
        if crashed is not None:
            found[crashed] = {"result": "failed", "evidence": "the process ended while it was tried"}
    return found


def _rows(engine: str, names: Sequence[str]) -> Iterable[dict[str, str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "pennyweight.conform", engine, *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"case"'):
                yield json.loads(line)


def keep(engine: str, results: Mapping[str, Mapping[str, str]]) -> None:
    """Write one engine's column into the table in the package."""
    table = read_table()
    engines = dict(table.get("engines") or {})
    engines[engine] = {"version": engine_class(engine).version(), "made": date.today().isoformat(), "cases": results}
    cases = {
        case.name: {
            "model_type": case.model_type,
            "shows": case.shows,
            "features": sorted(features({**case.whole_config, "model_type": case.model_type})),
            "all_features": sorted(features(case.saved_config)),
        }
        for case in CASES
    }
    FILE.write_text(json.dumps({"cases": cases, "engines": engines}, indent=1, ensure_ascii=False) + "\n", "utf-8")


def page(table: Mapping[str, Any], transformers: str) -> str:
    engines = table["engines"]
    rows, evidence = [], []
    for name, case in table["cases"].items():
        cells = []
        for engine, column in engines.items():
            cell = column["cases"].get(name, {"result": "", "evidence": ""})
            cells.append(WORDS.get(cell["result"], "not tried"))
            if cell["result"] in ("wrong", "failed", "refused"):
                evidence.append(f"* {name}, {engine}: {cell['evidence']}")
        rows.append(f"| {name} | {case['model_type']} | {' | '.join(cells)} |")
    return PAGE.format(
        transformers=transformers,
        made=max(column["made"] for column in engines.values()),
        versions=", ".join(f"{name} {column['version']}" for name, column in engines.items()),
        engines=" | ".join(engines),
        dashes="|".join("---" for _ in engines),
        rows="\n".join(rows),
        evidence="\n".join(evidence),
    )


def write_page(directory: Path) -> Path:
    from importlib import metadata

    file = directory / "conformance.md"
    file.write_text(page(read_table(), metadata.version("transformers")), encoding="utf-8")
    return file
