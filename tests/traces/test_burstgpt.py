"""The BurstGPT trace; the sample is written here in its columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight import traces
from pennyweight.errors import WorkloadError

HEAD = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def write(path: Path, *rows: str, head: str = HEAD) -> Path:
    file = path / "burst.csv"
    file.write_text(head + "".join(f"{row}\n" for row in rows))
    return file


def row(time: object, prompt: object = 472, answer: object = 18) -> str:
    return f"{time},ChatGPT,{prompt},{answer},490,Conversation log"


def test_rows_become_lengths_and_seconds_after_the_first(tmp_path: Path) -> None:
    one, other = traces.load(str(write(tmp_path, row(5), row(45.5, 1087, 230)))).requests
    assert (one.arrival, one.shape and one.shape.tokens, one.max_tokens) == (0.0, 472, 18)
    assert (other.arrival, other.shape and other.shape.tokens, other.max_tokens) == (40.5, 1087, 230)


def test_failed_calls_are_left_out(tmp_path: Path) -> None:
    found = traces.load(str(write(tmp_path, row(1, answer=0), row(5), row(7, 0, 0), row(9)))).requests
    assert [r.arrival for r in found] == [0.0, 4.0]


def test_a_session_column_ties_requests(tmp_path: Path) -> None:
    head = "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = ("1,7,GPT-4,10,5,15,Conversation log", "2,8,GPT-4,10,5,15,x", "3,7,GPT-4,10,5,15,x", "4,,GPT-4,9,5,14,x")
    sessions = [r.session for r in traces.load(str(write(tmp_path, *rows, head=head))).requests]
    assert sessions[0] == sessions[2]
    assert len(set(sessions)) == 3


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (row("noon"), "Timestamp"),
        (row("nan"), "time"),
        (row("inf"), "time"),
        (row(7, "many"), "Request tokens"),
        (row(7, -4), "Request tokens"),
        (row(7, 0), "Request tokens"),
        (row(7, 4, -1), "Response tokens"),
        ("7,ChatGPT,5", "Response tokens"),
        (row(3), "time"),
    ],
)
def test_a_malformed_row_is_reported_with_file_and_line(bad: str, word: str, tmp_path: Path) -> None:
    file = write(tmp_path, row(5), bad, row(9))
    with pytest.raises(WorkloadError, match=f"(?i){word}") as refusal:
        traces.load(str(file))
    assert f"{file}, line 3" in str(refusal.value)


def test_rows_that_run_backwards_are_reported_with_file_and_line(tmp_path: Path) -> None:
    file = write(tmp_path, row(5), row(9), row(8))
    with pytest.raises(WorkloadError, match="sort the file") as refusal:
        traces.load(str(file))
    assert f"{file}, line 4" in str(refusal.value)


def test_a_log_of_failures_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no requests"):
        traces.load(str(write(tmp_path, row(5, answer=0))))


def test_a_file_without_the_columns_is_refused_when_the_format_is_forced(tmp_path: Path) -> None:
    file = write(tmp_path, "1,2", head="a,b\n")
    with pytest.raises(WorkloadError, match="Timestamp") as refusal:
        traces.load(str(file), "burstgpt")
    assert f"{file}, line 2" in str(refusal.value)
