"""Fields that change an answer: carried, or refused with their line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight import traces
from pennyweight.errors import UsageError, WorkloadError
from pennyweight.workload import Request, Workload


def written(place: Path, *rows: Any) -> Path:
    file = place / "work.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def ours(**fields: Any) -> dict[str, Any]:
    return {"prompt": "x", **fields}


def batch(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}


CARRIED = {
    "temperature": 0.7,
    "top_p": 0.9,
    "seed": 3,
    "stop": ["\n"],
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "logit_bias": {"5": 1},
    "frequency_penalty": 0.5,
}


@pytest.mark.parametrize("row", [ours(**CARRIED), batch(**CARRIED)])
def test_fields_that_change_an_answer_are_carried(row: dict[str, Any], tmp_path: Path) -> None:
    (request,) = traces.load(str(written(tmp_path, row))).requests
    assert request.fields == CARRIED
    assert request.as_json().items() >= CARRIED.items()


@pytest.mark.parametrize(
    "fields", [{"tools": []}, {"tool_choice": "auto"}, {"tools": [], "parallel_tool_calls": False}]
)
def test_tools_that_are_none_ask_for_nothing(fields: dict[str, Any], tmp_path: Path) -> None:
    assert traces.load(str(written(tmp_path, ours(**fields)))).requests[0].fields == {}


@pytest.mark.parametrize("row", [ours(user="me", stream=True, metadata={"a": 1}), batch(stream=True, store=False)])
def test_fields_of_delivery_are_not(row: dict[str, Any], tmp_path: Path) -> None:
    assert traces.load(str(written(tmp_path, row))).requests[0].fields == {}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"functions": []}, "functions"),
        ({"guided_json": {}}, "guided_json"),
        ({"temprature": 1}, "temperature"),
        ({"max_token": 5}, "max_tokens"),
        ({"sesion": "a"}, "session"),
        ({"response_format": {"type": "xml"}}, "xml"),
        ({"max_new_tokens": 4}, "max_new_tokens"),
        ({"tools": [{"function": "x"}]}, "tools"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"top_p": 7}, "outside"),
        ({"stop": 3}, "stop"),
        ({"tools": ["f"]}, "tools"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"response_format": "json"}, "response_format"),
    ],
)
@pytest.mark.parametrize("form", [ours, batch])
def test_what_cannot_be_replayed_is_refused_with_its_line(form: Any, fields: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=rf"line 2: .*{words}"):
        traces.load(str(written(tmp_path, form(), form(**fields, custom_id="b", id="b"))))


def test_messages_with_more_than_text_are_refused(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    with pytest.raises(WorkloadError, match="tool_calls"):
        traces.load(str(written(tmp_path, {"messages": [call]})))
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    with pytest.raises(WorkloadError, match="text"):
        traces.load(str(written(tmp_path, {"messages": [image]})))


def test_text_may_come_in_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (request,) = traces.load(str(written(tmp_path, {"messages": [{"role": "user", "content": parts}]}))).requests
    assert request.messages == ({"role": "user", "content": "ab"},)


def test_odd_rows_are_left_out_by_name_if_that_is_wanted(tmp_path: Path) -> None:
    file = written(tmp_path, ours(id="a"), "{", ours(id="b", stop=3), ours(id="c"))
    left_out: list[str] = []
    found = traces.load(str(file), skip_invalid=left_out.append)
    assert [request.id for request in found.requests] == ["a", "c"]
    assert ["line 2" in left_out[0], "line 3" in left_out[1], len(left_out)] == [True, True, 2]


def test_a_row_that_repeats_an_id_or_has_no_time_can_be_left_out_too(tmp_path: Path) -> None:
    file = written(tmp_path, ours(id="a"), ours(id="a"), ours(id="b", arrival=-1), ours(id="c"))
    left_out: list[str] = []
    found = traces.load(str(file), skip_invalid=left_out.append)
    assert [request.id for request in found.requests] == ["a", "c"]
    assert ["line 2" in left_out[0], "line 3" in left_out[1], len(left_out)] == [True, True, 2]


def test_rows_of_a_table_are_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "azure.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,3,4\n")
    with pytest.raises(UsageError, match="skip-invalid"):
        traces.load(str(file), skip_invalid=print)


def test_answers_of_sharegpt_are_counted_in_tokens(tmp_path: Path) -> None:
    file = tmp_path / "share.json"
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "你好吗" * 10 + " three words here"}]
    file.write_text(json.dumps([{"id": "a", "conversations": turns}]))
    assert traces.load(str(file)).requests[0].max_tokens == 34  # a letter without spaces is a token, a word 1.3
    assert traces.load(str(file), count_tokens=len).requests[0].max_tokens == 47


def test_a_window_keeps_the_load_of_the_trace() -> None:
    made = tuple(Request(f"r{n}", f"s{n}", 1, prompt="x", arrival=float(n)) for n in range(1000))
    for seed in (0, 1, 2):
        times = [request.arrival for request in Workload("w", made).window(10, seed).requests]
        assert times[-1] - times[0] == 9.0  # type: ignore[operator]


def test_copies_of_a_prompt_stay_in_one_half() -> None:
    made = tuple(Request(f"r{n}", f"s{n}", 1, prompt=f"p{n % 4}") for n in range(40))
    tuning, held_out = Workload("w", made).split()
    assert not {r.prompt for r in tuning.requests} & {r.prompt for r in held_out.requests}


def test_the_output_limit_has_openais_newer_name_too(tmp_path: Path) -> None:
    for form in (ours, batch):
        (request,) = traces.load(str(written(tmp_path, form(max_completion_tokens=7)))).requests
        assert request.max_tokens == 7 and request.fields == {}


def test_null_is_as_good_as_not_there(tmp_path: Path) -> None:
    rows = [ours(id=None, session=None, kind=None, max_tokens=None, prompt=f"p{n}") for n in range(2)]
    made = traces.load(str(written(tmp_path, *rows))).requests
    assert len({r.id for r in made}) == len({r.session for r in made}) == 2
    assert [r.max_tokens for r in made] == [128, 128] and made[0].kind == ""
