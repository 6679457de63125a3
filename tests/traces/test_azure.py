"""The Azure 2023 trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pennyweight import traces
from pennyweight.errors import WorkloadError

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
FIRST = "2023-11-16 18:15:46.6805900,374,44\n"


def write(path: Path, *rows: str) -> Path:
    file = path / "azure.csv"
    file.write_text(HEAD + "".join(rows))
    return file


def test_rows_become_lengths_and_seconds_after_the_first(tmp_path: Path) -> None:
    file = write(tmp_path, FIRST, "2023-11-16 18:15:50.9305900,396,109\n")
    one, other = traces.load(str(file)).requests
    assert (one.arrival, one.shape and one.shape.tokens, one.max_tokens) == (0.0, 374, 44)
    assert (other.arrival, other.shape and other.shape.tokens, other.max_tokens) == (4.25, 396, 109)
    assert one.session != other.session


def test_time_stamps_with_a_zone_are_read_with_and_without_a_fraction(tmp_path: Path) -> None:
    rows = ("2024-05-10 00:00:00.009930+00:00,1,1\n", "2024-05-10 00:00:01+00:00,1,1\n")
    assert [round(r.arrival or 0, 3) for r in traces.load(str(write(tmp_path, *rows))).requests] == [0.0, 0.990]


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("yesterday,374,44\n", "time stamp"),
        ("2023-11-16 18:15:47,many,44\n", "ContextTokens"),
        ("2023-11-16 18:15:47,374\n", "GeneratedTokens"),
        ("2023-11-16 18:15:47,-374,44\n", "ContextTokens"),
        ("2023-11-16 18:15:47,374,0\n", "GeneratedTokens"),
        ("2023-11-16 18:15:40,374,44\n", "time"),
        ('"2023-11-16 18:15:47' + "x" * 200_000 + "\n", "line"),
    ],
    ids=["time", "no number", "short row", "negative", "zero", "before the first", "quote never closed"],
)
def test_a_malformed_row_is_reported_with_file_and_line(row: str, word: str, tmp_path: Path) -> None:
    file = write(tmp_path, FIRST, row)
    with pytest.raises(WorkloadError, match=word) as refusal:
        traces.load(str(file))
    assert f"{file}, line 3" in str(refusal.value)


def test_rows_that_run_backwards_are_reported_with_file_and_line(tmp_path: Path) -> None:
    file = write(tmp_path, FIRST, "2023-11-16 18:15:50,1,1\n", "2023-11-16 18:15:48,1,1\n")
    with pytest.raises(WorkloadError, match="sort the file") as refusal:
        traces.load(str(file))
    assert f"{file}, line 4" in str(refusal.value)


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no requests"):
        traces.load(str(write(tmp_path)))


def test_a_file_without_the_columns_is_refused_when_the_format_is_forced(tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(WorkloadError, match="TIMESTAMP") as refusal:
        traces.load(str(file), "azure")
    assert str(file) in str(refusal.value)


@pytest.mark.skipif("PENNYWEIGHT_DATA" not in os.environ, reason="needs the real trace: set PENNYWEIGHT_DATA")
def test_the_real_trace_is_read_whole() -> None:
    requests = traces.load(os.environ["PENNYWEIGHT_DATA"] + "/traces/AzureLLMInferenceTrace_conv.csv").requests
    assert len(requests) == 19366
    first = requests[0]
    assert (first.arrival, first.shape and first.shape.tokens, first.max_tokens) == (0.0, 374, 44)
    assert 3500 < (requests[-1].arrival or 0) < 3700
