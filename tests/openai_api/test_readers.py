"""Readers: what a chat answer holds, in each model's format, whole and while it grows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.generation import Event
from pennyweight.openai_api import gemma_calls, harmony, readers
from pennyweight.openai_api.answers import Answer
from pennyweight.openai_api.readers import Reader
from pennyweight.openai_api.reading import Reading
from pennyweight.openai_api.validating import validating
from pennyweight.tokenizer import Tokenizer

WEATHER = ("weather", {"city": 'Ulm "x" }', "days": 3})
THINKS = ("<think>", "</think>")
JSON_CALL = json.dumps({"name": WEATHER[0], "arguments": WEATHER[1]})
SCHEMAS = {"weather": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}
CASES: dict[str, tuple[Reader, str, str, str, int]] = {  # reader, text, content, reasoning, calls
    "hermes": (Reader(readers.hermes), f"Let me look.\n<tool_call>\n{JSON_CALL}\n</tool_call>", "Let me look.", "", 1),
    "two of hermes": (Reader(readers.hermes), f"<tool_call>{JSON_CALL}</tool_call>\n" * 2, "", "", 2),
    "hermes after thoughts": (
        Reader(readers.hermes, thoughts=THINKS),
        f"<think>\nHm.\n</think>\n\nYes.<tool_call>{JSON_CALL}</tool_call>",
        "Yes.",
        "Hm.\n",
        1,
    ),
    "thoughts that the prompt opens": (Reader(thoughts=THINKS, opened=True), "Hm.</think>\nYes.", "Yes.", "Hm.", 0),
    "thoughts that never end": (Reader(thoughts=THINKS, opened=True), "Hm, hm <b", "", "Hm, hm <b", 0),
    "no thoughts": (Reader(thoughts=THINKS), "<thing> is no thought", "<thing> is no thought", "", 0),
    "qwen-coder": (
        Reader(readers.hermes, SCHEMAS),
        '<tool_call>\n<function=weather>\n<parameter=city>\nUlm "x" }\n</parameter>\n'
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        "",
        "",
        1,
    ),
    "llama": (Reader(readers.llama), JSON_CALL.replace("arguments", "parameters"), "", "", 1),
    "llama with a tag, twice": (Reader(readers.llama), f"<|python_tag|>{JSON_CALL}; {JSON_CALL}", "", "", 2),
    "llama without a call": (Reader(readers.llama), "It rains.", "It rains.", "", 0),
    "llama with other JSON": (Reader(readers.llama), '{"a": 1}', '{"a": 1}', "", 0),
    "mistral": (Reader(readers.mistral), f"[TOOL_CALLS] [{JSON_CALL}, {JSON_CALL}]", "", "", 2),
    "mistral, newer": (Reader(readers.mistral), f"Ok[TOOL_CALLS]weather[ARGS]{json.dumps(WEATHER[1])}", "Ok", "", 1),
    "phi": (Reader(readers.tagged), f"<|tool_call|>[{JSON_CALL}]<|/tool_call|>", "", "", 1),
    "forced": (Reader(readers.forced), f"[{JSON_CALL}]", "", "", 1),
    "harmony": (
        Reader(harmony.read),
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
        f"<|constrain|>json<|message|>{json.dumps(WEATHER[1])}",
        "",
        "Hm.",
        1,
    ),
    "harmony's answer": (
        Reader(harmony.read),
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        "Yes.",
        "Hm.",
        0,
    ),
    "functiongemma": (
        Reader(gemma_calls.function_gemma),
        '<start_function_call>call:weather{city:<escape>Ulm "x" }<escape>,days:3}<end_function_call>',
        "",
        "",
        1,
    ),
    "gemma 4": (
        Reader(gemma_calls.gemma),
        '<|tool_call>call:weather{city:<|"|>Ulm "x" }<|"|>,days:3}<tool_call|>',
        "",
        "",
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_whole_answer_is_read(name: str) -> None:
    reader, text, content, reasoning, calls = CASES[name]
    read = reader(text, True)
    assert (read.content, read.reasoning, len(read.calls)) == (content, reasoning, calls)
    assert all((call.name, json.loads(call.arguments)) == WEATHER for call in read.calls)


@pytest.mark.parametrize("name", CASES)
def test_a_reading_only_grows(name: str) -> None:
    reader, text, *_ = CASES[name]
    before = Reading()
    for end in [*range(len(text) + 1), len(text)]:
        now = reader(text[:end], end == len(text))
        assert now.content.startswith(before.content) and now.reasoning.startswith(before.reasoning)
        assert len(now.calls) >= len(before.calls)
        for new, old in zip(now.calls, before.calls, strict=False):
            assert new.name == old.name and new.arguments.startswith(old.arguments)
        before = now


@given(text=st.text(alphabet='<>tool_cal/{}"name:,[]x \n', max_size=60), which=st.sampled_from(sorted(CASES)))
def test_any_text_is_read_without_a_fault(text: str, which: str) -> None:
    reader = CASES[which][0]
    for end in range(len(text) + 1):
        reader(text[:end], False)
    reader(text, True)


@pytest.mark.parametrize("name", CASES)
def test_a_stream_adds_up_to_the_whole_answer(name: str, tokenizer_directory: Path) -> None:
    reader, text, content, reasoning, calls = CASES[name]
    tokenizer = Tokenizer(tokenizer_directory)
    growing = Answer(chat=True, model="m", prompt_tokens=[5], tokenizer=tokenizer, reader=reader)
    deltas: list[dict[str, Any]] = []
    finish = None
    for place, letter in enumerate(text):
        last = place == len(text) - 1
        event = Event("g", (place,), finish="stop" if last else None)
        growing.add(event, letter)
        for line in growing.chunk(letter, event, event.finish).split(b"\n\n")[:-1]:
            choice = json.loads(line.removeprefix(b"data: "))["choices"][0]
            deltas.append(choice["delta"])
            finish = choice["finish_reason"] or finish
    assert "".join(d.get("content") or "" for d in deltas) == content
    assert "".join(d.get("reasoning_content") or "" for d in deltas) == reasoning
    parts = [part for delta in deltas for part in delta.get("tool_calls", ())]
    for number in range(calls):
        mine = [part for part in parts if part["index"] == number]
        assert mine[0]["id"] and mine[0]["function"]["name"] == WEATHER[0]
        assert json.loads("".join(part["function"]["arguments"] for part in mine)) == WEATHER[1]
    assert finish == ("tool_calls" if calls else "stop")
    message = growing.choice()["message"]
    assert (message["content"] or "", message.get("reasoning_content", "")) == (content, reasoning)
    assert [json.loads(c["function"]["arguments"]) for c in message.get("tool_calls", ())] == [WEATHER[1]] * calls


def test_the_format_is_found_by_what_a_template_holds() -> None:
    assert readers.calls_of("no such thing") is None
    assert readers.calls_of("{% if tools %}<tool_call>") is readers.hermes
    assert readers.calls_of("{% if tools %}[TOOL_CALLS]") is readers.mistral
    assert readers.calls_of('{{ tools }} "parameters" <|python_tag|>') is readers.llama
    assert readers.calls_of("{{ tools }} <|channel|>") is harmony.read
    assert readers.thoughts_of("<think> </think>") == THINKS and readers.thoughts_of("plain") is None


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('<tool_call>{"name":"f","arguments":{"a":1,}}</tool_call>', "", [("f", '{"a":1,}')]),
        ('<tool_call>{"name":"f","arguments":{"a":"</tool_call>"}}</tool_call>', "", [("f", '{"a":"</tool_call>"}')]),
        ("Hello <tool_call> is a marker, see? More.", "Hello <tool_call> is a marker, see? More.", []),
        ('<tool_call>{"name": "\\x","arguments": {"a": 1', '<tool_call>{"name": "\\x","arguments": {"a": 1', []),
        ('<tool_call>{"name":"f","arguments":{}}</tool_call>\nAnd so on.', "\nAnd so on.", [("f", "{}")]),
    ],
)
def test_what_is_no_call_is_not_lost_and_streams_alike(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    read = readers.hermes(text, True, {})
    assert (read.content, [(call.name, call.arguments) for call in read.calls]) == (content, calls)
    before = Reading()
    for end in range(len(text) + 1):
        now = readers.hermes(text[:end], False, {})
        assert now.content.startswith(before.content) and len(now.calls) >= len(before.calls)
        before = now
    assert read.content.startswith(before.content)
    for late, early in zip(read.calls, before.calls, strict=False):
        assert late.arguments.startswith(early.arguments)


def test_a_long_call_is_read_in_time() -> None:
    text = '<tool_call>{"name":"f","arguments":{"a":"' + "lorem ipsum " * 20_000
    began = time.monotonic()
    assert readers.hermes(text, False, {}).calls[0].name == "f"
    assert time.monotonic() - began < 0.5


BAD_CALL = json.dumps({"name": "weather", "arguments": {"city": 5}})
STRICT = {"weather": validating(SCHEMAS["weather"])}


def test_a_strict_call_is_given_only_when_its_arguments_hold() -> None:
    reader = Reader(readers.hermes, SCHEMAS, strict=STRICT)
    text = f"So.<tool_call>{BAD_CALL}</tool_call><tool_call>{JSON_CALL}</tool_call>"
    seen = [reader(text[:length], False) for length in range(len(text))]
    assert all(call.arguments == json.dumps(WEATHER[1]) for reading in seen for call in reading.calls)
    whole = reader(text, True)
    assert [json.loads(call.arguments) for call in whole.calls] == [WEATHER[1]]
    assert whole.content == f"So.\n{BAD_CALL}"
    assert Reader(readers.hermes, SCHEMAS)(text, True).calls[0].arguments == '{"city": 5}'


def test_one_call_is_read_where_no_more_are_wanted() -> None:
    text = f"<tool_call>{JSON_CALL}</tool_call>" * 2
    assert len(Reader(readers.hermes, SCHEMAS)(text, True).calls) == 2
    assert len(Reader(readers.hermes, SCHEMAS, most=1)(text, True).calls) == 1
