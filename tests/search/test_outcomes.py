"""Outcomes: asked once a request and member, kept whatever happens, and the same when they are read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pennyweight.errors import StorageError
from pennyweight.search.outcomes import Outcome, OutcomeMatrix, collect
from pennyweight.serve import Endpoint
from pennyweight.workload import Request

REQUESTS = [
    Request("a", "a", 8, prompt="Two and two?", reference="4", scorer="numeric"),
    Request("b", "b", 8, prompt="A poem, please"),
    Request("c", "c", 8, prompt="Three and one?", reference="4", scorer="numeric"),
]


def outcome(request: str, member: str = "small", score: float | None = 1.0) -> Outcome:
    return Outcome(request, member, "vier\n4", "stop", score, (-0.5, -1.25), (2.0, 0.25), 12, 2, 0.75, 4)


def test_outcomes_are_read_as_they_were_kept(tmp_path: Path) -> None:
    matrix = OutcomeMatrix(tmp_path / "outcomes.jsonl")
    kept = [outcome("a"), outcome("b", score=None), outcome("a", "large", 0.0)]
    for one in kept:
        matrix.add(one)
    again = OutcomeMatrix(tmp_path / "outcomes.jsonl", resume=True)
    assert again.of("small", REQUESTS[:2]) == kept[:2] and again.of("large", REQUESTS[:1]) == kept[2:]
    assert [request.id for request in again.missing("small", REQUESTS)] == ["c"]
    assert np.array_equal(again.scores("small", REQUESTS[:2]), [1.0, np.nan], equal_nan=True)
    assert not OutcomeMatrix(tmp_path / "outcomes.jsonl").missing("small", []), "without resume it starts anew"
    assert len(OutcomeMatrix(tmp_path / "outcomes.jsonl", resume=True).missing("small", REQUESTS)) == 3


def test_one_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    matrix = OutcomeMatrix(file)
    for one in (outcome("a"), outcome("b")):
        matrix.add(one)
    file.write_bytes(file.read_bytes()[:-5])
    again = OutcomeMatrix(file, resume=True)
    assert [request.id for request in again.missing("small", REQUESTS)] == ["b", "c"]
    again.add(outcome("b"))
    assert len(OutcomeMatrix(file, resume=True).missing("small", REQUESTS)) == 1


def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    for text in ("no json\nat all", '{"another": "file"}\ntorn'):
        file.write_text(text)
        with pytest.raises(StorageError):
            OutcomeMatrix(file, resume=True)
        assert file.read_text() == text


def test_each_request_is_asked_once(scripted_endpoint: Endpoint, tmp_path: Path) -> None:
    matrix = OutcomeMatrix(tmp_path / "outcomes.jsonl")
    done = []
    for asked in (REQUESTS[:1], REQUESTS, REQUESTS):
        collect(matrix, "small", scripted_endpoint, asked, concurrency=2, progress=lambda *at: done.append(at))
    assert [total for _, total in done] == [1, 2, 2]
    found = matrix.of("small", REQUESTS)
    assert found[1].score is None and all(one.score in (0.0, 1.0) for one in (found[0], found[2]))
    assert all(one.output_tokens == len(one.logprobs) > 0 and one.seconds > 0 for one in found)
