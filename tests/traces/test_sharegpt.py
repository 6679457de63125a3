"""ShareGPT conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight import traces
from pennyweight.errors import WorkloadError

GOOD = {
    "id": "c1",
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "one two three four five six seven eight nine ten"},
        {"from": "human", "value": "More"},
        {"from": "gpt", "value": "ok"},
    ],
}


def write(path: Path, value: Any) -> Path:
    file = path / "sharegpt.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


def test_every_answer_becomes_a_request_with_the_turns_before_it(tmp_path: Path) -> None:
    one, other = traces.load(str(write(tmp_path, [GOOD]))).requests
    assert [m["role"] for m in one.messages] == ["system", "user"]
    assert [m["role"] for m in other.messages] == ["system", "user", "assistant", "user"]
    assert other.messages[-1]["content"] == "More"
    assert one.session == other.session == "c1"
    assert (one.max_tokens, other.max_tokens) == (13, 1)


def test_conversations_with_one_id_still_make_requests_with_their_own(tmp_path: Path) -> None:
    found = traces.load(str(write(tmp_path, [GOOD, GOOD]))).requests
    assert len({r.id for r in found}) == 4


def test_a_conversation_that_the_model_begins_asks_nothing_by_it(tmp_path: Path) -> None:
    turns = [{"from": "gpt", "value": "Welcome"}, *GOOD["conversations"][1:3]]
    (request,) = traces.load(str(write(tmp_path, [{"conversations": turns}]))).requests
    assert request.messages[-1] == {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "c2", "conversations": None},
        {"id": "c2", "conversations": [{"from": "martian", "value": "x"}]},
        {"id": "c2", "conversations": [{"from": "human"}]},
        {"id": "c2", "conversations": [{"from": ["human"], "value": "x"}]},
        {"id": "c2", "conversations": ["x"]},
        {"id": "c2", "conversations": []},
        {"id": "c2", "conversations": [{"from": "human", "value": "no answer"}]},
        {"id": "c2", "conversations": [{"from": "human", "value": " "}, {"from": "gpt", "value": "to what?"}]},
        "c2",
    ],
)
def test_a_malformed_conversation_is_reported_with_file_and_number(bad: Any, tmp_path: Path) -> None:
    file = write(tmp_path, [GOOD, bad])
    with pytest.raises(WorkloadError) as refusal:
        traces.load(str(file))
    assert f"{file}, conversation 2" in str(refusal.value)


def test_broken_json_is_reported_with_file_and_line(tmp_path: Path) -> None:
    file = write(tmp_path, '[\n{"conversations": []},\n!]')
    with pytest.raises(WorkloadError) as refusal:
        traces.load(str(file))
    assert f"{file}, line 3" in str(refusal.value)


@pytest.mark.parametrize("value", [5, None, {"conversations": []}])
def test_a_file_that_is_no_list_is_refused_when_the_format_is_forced(value: Any, tmp_path: Path) -> None:
    file = write(tmp_path, value)
    with pytest.raises(WorkloadError, match=r"sharegpt\.json"):
        traces.load(str(file), "sharegpt")


def test_a_list_without_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no question with an answer"):
        traces.load(str(write(tmp_path, [{"conversations": []}])))
