"""Several loads one after the other: names of loads, rows for a table or CSV, and a line for every request."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pennyweight.measure.record import Record
from pennyweight.measurement import Measurement
from pennyweight.workload import Arrivals

COLUMNS = (
    "output_throughput",
    "request_throughput",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "tpot_p50_ms",
    "tpot_p95_ms",
    "e2e_p50_ms",
    "e2e_p95_ms",
    "failed_requests",
    "peak_memory_bytes",
)


def load_name(arrivals: Arrivals) -> str:
    """The load in words, short enough for a column."""
    parts = []
    if arrivals.kind in ("poisson", "gamma"):
        parts.append(f"{arrivals.request_rate:g}/s")
    if arrivals.kind == "recorded":
        parts.append("as recorded")
    if arrivals.max_concurrency is not None:
        parts.append(f"{arrivals.max_concurrency} at a time")
    return ", ".join(parts)


def write_csv(path: Path, runs: Sequence[tuple[Arrivals, Measurement]]) -> None:
    """One row a load, every number of it."""
    names = sorted({name for _, measurement in runs for name in measurement.quantities})
    with path.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["kind", "max_concurrency", "request_rate", *names])
        for arrivals, measurement in runs:
            load = [arrivals.kind, arrivals.max_concurrency or "", arrivals.request_rate or ""]
            rows.writerow([*load, *(measurement.get(name) for name in names)])


def request_rows(arrivals: Arrivals, records: Sequence[Record]) -> list[str]:
    """A line of JSON for each request, times in milliseconds; a failed one has its reason and no times."""
    first = min((record.sent for record in records if record.sent), default=0.0)
    rows = []
    for record in records:
        row: dict[str, Any] = {"load": load_name(arrivals), "id": record.id, "error": record.error}
        row["sent_ms"] = round(1000 * (record.sent - first), 2)
        if record.error is None:
            row |= {
                "ttft_ms": round(1000 * record.ttft, 2),
                "tpot_ms": None if record.tpot is None else round(1000 * record.tpot, 3),
                "e2e_ms": round(1000 * record.e2e, 2),
                "prompt_tokens": record.prompt_tokens,
                "output_tokens": record.output_tokens,
                "finish_reason": record.finish_reason,
            }
        rows.append(json.dumps(row))
    return rows
