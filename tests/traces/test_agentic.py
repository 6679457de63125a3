"""Agentic session files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pennyweight import traces
from pennyweight.errors import WorkloadError


def request(time: object, prompt: object = 100, answer: object = 10, hashes: object = (1, 2)) -> dict[str, Any]:
    return {"t": time, "type": "n", "in": prompt, "out": answer, "hash_ids": hashes}


def write(path: Path, name: str, *requests: Any, **fields: Any) -> Path:
    file = path / f"{name}.json"
    value = {"id": name, "block_size": 64, "hash_id_scope": "local", "requests": requests, **fields}
    file.write_text(json.dumps(value))
    return file


def test_a_session_is_one_session_and_its_hashes_are_its_own(tmp_path: Path) -> None:
    one, other = traces.load(str(write(tmp_path, "s1", request(0.0), request(2.5, 200, 20)))).requests
    assert one.session == other.session == "s1"
    assert (other.arrival, other.max_tokens, other.shape and other.shape.tokens) == (2.5, 20, 200)
    assert one.shape is not None
    assert one.shape.block_size == 64
    write(tmp_path, "s2", request(0.0))
    hashes = [r.shape.block_hashes for r in traces.load(str(tmp_path)).requests if r.shape]
    assert len(hashes) == 3
    assert len(set(hashes)) == 2


def test_the_sessions_of_a_directory_run_side_by_side(tmp_path: Path) -> None:
    write(tmp_path, "s1", request(0.0), request(5.0))
    write(tmp_path, "s2", request(1.0), request(9.0))
    found = traces.load(str(tmp_path)).requests
    assert [(r.session, r.arrival) for r in found] == [("s1", 0.0), ("s2", 1.0), ("s1", 5.0), ("s2", 9.0)]
    assert len({r.id for r in found}) == 4


def test_the_requests_of_a_sub_agent_belong_to_the_session(tmp_path: Path) -> None:
    nested = {"t": 1.0, "type": "subagent", "requests": [request(1.0), request(2.0)]}
    found = traces.load(str(write(tmp_path, "s1", request(0.0), nested, request(3.0)))).requests
    assert [(r.session, r.arrival) for r in found] == [("s1", 0.0), ("s1", 1.0), ("s1", 2.0), ("s1", 3.0)]


@pytest.mark.parametrize(
    "bad",
    [
        request("soon"),
        request(-1.0),
        request(float("nan")),
        request(1.0, 0),
        request(1.0, "x"),
        request(1.0, 5, -1),
        request(1.0, float("inf")),
        request(1.0, hashes=None),
        request(1.0, hashes=5),
        {"t": 1.0},
        5,
        None,
    ],
    ids=str,
)
def test_a_malformed_request_is_reported_with_file_and_number(bad: Any, tmp_path: Path) -> None:
    file = write(tmp_path, "s1", request(0.0), bad)
    with pytest.raises(WorkloadError) as refusal:
        traces.load(str(file))
    assert f"{file}, request 2" in str(refusal.value)


@pytest.mark.parametrize(
    "fields", [{"requests": 5}, {"requests": None}, {"block_size": None}, {"block_size": "x"}], ids=str
)
def test_a_file_that_is_no_session_is_reported_by_name(fields: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path, "s1", **fields)
    with pytest.raises(WorkloadError, match=r"s1\.json"):
        traces.load(str(file))


def test_broken_json_is_reported_with_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, "s1", request(0.0))
    (tmp_path / "s2.json").write_text('{\n"hash_id_scope": "local",\n!')
    with pytest.raises(WorkloadError, match=r"s2\.json, line 3"):
        traces.load(str(tmp_path))


def test_a_directory_without_sessions_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"without \.json session files"):
        traces.load(str(tmp_path))


@pytest.mark.skipif("PENNYWEIGHT_DATA" not in os.environ, reason="needs the real traces: set PENNYWEIGHT_DATA")
def test_the_real_sessions_are_read_whole() -> None:
    requests = traces.load(os.environ["PENNYWEIGHT_DATA"] + "/traces/agentic").requests
    assert len(requests) == 356
    assert len({r.session for r in requests}) == 12
    assert len({r.id for r in requests}) == 356
