"""Our own JSONL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight import traces
from pennyweight.errors import WorkloadError
from pennyweight.workload import Request, Workload

MESSAGES = [{"role": "user", "content": "2+2?"}]
GOOD = {"id": "a", "messages": MESSAGES, "arrival": 1.0}


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    file = path / "mine.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def test_every_field_of_a_request_is_read(tmp_path: Path) -> None:
    line = {
        "id": "a",
        "session": "s",
        "messages": MESSAGES,
        "max_tokens": 8,
        "reference": "4",
        "scorer": "choice",
        "choices": ["3", "4"],
        "kind": "sums",
        "arrival": 2,
    }
    assert traces.load(str(write(tmp_path, line))).requests == (
        Request(
            "a", "s", 8, tuple(MESSAGES), arrival=2.0, reference="4", scorer="choice", choices=("3", "4"), kind="sums"
        ),
    )


def test_what_may_be_left_out_is_filled_in(tmp_path: Path) -> None:
    one, other = traces.load(str(write(tmp_path, {"prompt": "x"}, {"prompt_tokens": [1, 2]}))).requests
    assert one == Request("line-1", "line-1", 128, prompt="x")
    assert other == Request("line-2", "line-2", 128, prompt_tokens=(1, 2))


def test_what_a_request_writes_is_read_again(tmp_path: Path) -> None:
    requests = (
        Request("a", "s", 8, messages=tuple(MESSAGES), reference="4", scorer="numeric", kind="k", arrival=0.0),
        Request("b", "s", 9, prompt="ünï\ncode", arrival=1.5, reference="x", scorer="choice", choices=("x", "y")),
        Request("c", "t", 1, prompt_tokens=(0, 5)),
    )
    file = write(tmp_path, *(request.as_json() for request in requests))
    assert traces.load(str(file)) == Workload("mine", requests)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ({"id": "b"}, "exactly one of"),
        ({"id": "b", "messages": MESSAGES, "prompt": "x"}, "exactly one of"),
        ({"id": "b", "messages": "x"}, "messages"),
        ({"id": "b", "messages": [{"role": "user"}]}, "content"),
        ({"id": "b", "messages": [{"role": "bard", "content": "x"}]}, "role"),
        ({"id": "b", "prompt": ["x"]}, "prompt"),
        ({"id": "b", "prompt_tokens": [1, -1]}, "prompt_tokens"),
        ({"id": "b", "prompt_tokens": "12"}, "prompt_tokens"),
        ({"id": "b", "prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"id": "b", "prompt": "x", "max_tokens": 2.5}, "max_tokens"),
        ({"id": "b", "prompt": "x", "max_tokens": True}, "max_tokens"),
        ({"id": "b", "prompt": "x", "arrival": "soon"}, "arrival"),
        ({"id": "b", "prompt": "x", "arrival": -1}, "time"),
        ({"id": "b", "prompt": "x", "arrival": 0.5}, "time"),
        ({"id": "b", "prompt": "x", "arrival": float("nan")}, "time|arrival"),
        ({"id": "b", "prompt": "x", "scorer": "exact"}, "reference"),
        ({"id": "b", "prompt": "x", "scorer": "vibes", "reference": "4"}, "vibes"),
        ({"id": "b", "prompt": "x", "scorer": "regex", "reference": "("}, "regular expression"),
        ({"id": "b", "prompt": "x", "choices": None}, "choices"),
        ({"id": "b", "prompt": "x", "choices": "AB"}, "choices"),
        ({"id": "a", "prompt": "x"}, "line 1 already"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malformed_line_is_reported_with_file_and_line(bad: dict[str, Any] | str, word: str, tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, bad)
    with pytest.raises(WorkloadError, match=word) as refusal:
        traces.load(str(file))
    assert f"{file}, line 2" in str(refusal.value)
