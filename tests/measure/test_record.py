"""Streams into records: what was generated counts, and what was cut off has failed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pennyweight.measure.record import Reading, Record, is_cached


def event(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def usage(tokens: int) -> bytes:
    return b"data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}}).encode()


DONE = b"data: [DONE]\n\n"


def read(*data: bytes, count: Any = None) -> Record:
    record = Record("r", 0.0)
    reading = Reading(record)
    for second, piece in enumerate(data):
        reading.feed(piece, float(second))
    reading.close(float(len(data)), count)
    return record


def test_a_stream_with_its_end_is_whole() -> None:
    record = read(event(text="a"), event(text="b", finish_reason="stop"), usage(2) + b"\n\n", DONE)
    assert (record.error, record.text, record.output_tokens, record.counted) == (None, "ab", 2, "usage")
    assert (record.chunks, record.finished) == ([0.0, 1.0], 1.0)


def test_a_stream_without_its_end_has_failed() -> None:
    record = read(event(text="a"), event(text="b"))
    assert record.error == "the stream ended without finish_reason and without [DONE]"


@pytest.mark.parametrize("last", [DONE, event(text="", finish_reason="length")])
def test_either_end_will_do(last: bytes) -> None:
    assert read(event(text="a"), last).error is None


def test_the_last_event_needs_no_newline() -> None:
    record = read(event(text="a", finish_reason="stop"), usage(7))
    assert record.output_tokens == 7


def test_events_may_be_cut_anywhere() -> None:
    whole = event(text="é", finish_reason="stop") + usage(1) + b"\n\n" + DONE
    for place in range(len(whole)):
        record = read(whole[:place], whole[place:])
        assert (record.error, record.text, record.output_tokens) == (None, "é", 1)


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]},
        {"content": "hm"},
    ],
)
def test_reasoning_and_tool_calls_are_generated_too(delta: dict[str, Any]) -> None:
    record = read(
        event(delta={"role": "assistant", "content": ""}), event(delta=delta), event(delta={}, finish_reason="stop")
    )
    assert record.error is None and record.chunks == [1.0]


def test_without_usage_the_tokenizer_counts_or_chunks_are_named() -> None:
    stream = [event(text="one two"), event(text=" three", finish_reason="stop"), DONE]
    counted = read(*stream, count=lambda text: len(text.split()))
    assert (counted.output_tokens, counted.counted) == (3, "tokenizer")
    assert (read(*stream).output_tokens, read(*stream).counted) == (2, "chunks")


def test_an_answer_that_the_model_ends_at_once_is_whole_and_empty() -> None:
    record = read(event(text=""), event(text="", finish_reason="stop"), usage(0) + b"\n\n", DONE)
    assert (record.error, record.output_tokens, record.counted, record.chunks) == (None, 0, "usage", [1.0])


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_stream_that_only_ends_has_failed(reason: str) -> None:
    """Nothing says that the model was asked at all; or it had room for tokens, and used none."""
    tokens = usage(0) + b"\n\n" if reason == "length" else b""
    assert read(event(text="", finish_reason=reason), tokens + DONE).error == "the stream ended without any content"


def test_an_error_in_the_stream_is_its_reason() -> None:
    assert read(event(text="a"), b'data: {"error": {"message": "gone"}}\n\n', DONE).error == "gone"


@pytest.mark.parametrize(
    ("headers", "cached"),
    [
        ({"x-pennyweight-cache": "hit"}, True),
        ({"x-pennyweight-cache": "miss"}, False),
        ({}, False),
        ({"x-litellm-cache-hit": "True"}, True),
    ],
)
def test_servers_that_say_that_they_cached(headers: dict[str, str], cached: bool) -> None:
    assert is_cached(headers) is cached


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": "7", "completion_tokens": "5"},
        {"completion_tokens": -5},
        {"prompt_tokens": 3},
        {"completion_tokens": None},
    ],
)
def test_a_usage_that_is_none_counts_as_not_reported(usage: dict[str, Any]) -> None:
    odd = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
    record = read(event(text="a"), event(text="b", finish_reason="stop"), odd, DONE)
    assert (record.error, record.output_tokens, record.counted) == (None, 2, "chunks")


def test_null_fields_are_nothing() -> None:
    nulls = b"data: " + json.dumps({"choices": [{"delta": None}], "error": None, "usage": None}).encode() + b"\n\n"
    assert read(nulls, event(delta={"content": "a"}, finish_reason="stop"), DONE).error is None
