"""Loads by name, rows of CSV, a line for each request."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pennyweight.cli.options import loads
from pennyweight.errors import UsageError
from pennyweight.measure.record import Record
from pennyweight.measure.sweep import load_name, request_rows, write_csv
from pennyweight.measurement import Quantity, collect
from pennyweight.workload import Arrivals


def named(concurrency: str | None, rate: str | None, *, recorded: bool = False) -> list[str]:
    made = loads(concurrency, rate, 1.0, recorded=recorded, time_scale=1.0)
    return [load_name(one) for one in made]


@pytest.mark.parametrize(
    ("concurrency", "rate", "names"),
    [
        (None, None, ["32 at a time"]),
        ("1,2,4", None, ["1 at a time", "2 at a time", "4 at a time"]),
        (None, "0.5,2", ["0.5/s", "2/s"]),
        ("8", "2", ["2/s, 8 at a time"]),
        ("1,2", "3,4", ["3/s, 1 at a time", "3/s, 2 at a time", "4/s, 1 at a time", "4/s, 2 at a time"]),
    ],
)
def test_every_combination_is_a_load(concurrency: str | None, rate: str | None, names: list[str]) -> None:
    assert named(concurrency, rate) == names


@pytest.mark.parametrize(
    ("concurrency", "rate"), [("x", None), ("1.5", None), ("0", None), (None, "fast"), (None, "-1")]
)
def test_what_is_no_load_is_refused(concurrency: str | None, rate: str | None) -> None:
    with pytest.raises(UsageError):
        named(concurrency, rate)


def test_a_row_of_csv_for_each_load(tmp_path: Path) -> None:
    runs = [
        (Arrivals("closed", count), collect("x", [Quantity("output_throughput", 10.0 * count, "tokens/s", "higher")]))
        for count in (1, 2)
    ]
    write_csv(tmp_path / "s.csv", runs)
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["max_concurrency"], row["output_throughput"]) for row in rows] == [("1", "10.0"), ("2", "20.0")]


def test_a_failed_request_has_its_reason_and_no_times() -> None:
    good = Record(
        "a", 0.0, sent=1.0, chunks=[1.5], finished=2.5, output_tokens=3, prompt_tokens=4, finish_reason="stop"
    )
    bad = Record("b", 0.0, sent=1.25, error="HTTP 503: busy")
    first, second = (json.loads(row) for row in request_rows(Arrivals("closed", 2), [good, bad]))
    assert (first["ttft_ms"], first["tpot_ms"], first["e2e_ms"]) == (500.0, 500.0, 1500.0)
    assert (second["error"], second["sent_ms"]) == ("HTTP 503: busy", 250.0) and "ttft_ms" not in second
