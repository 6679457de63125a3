"""Chat answers in the words of other APIs: reasoning, text and calls, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from pennyweight.serve.gateway import messages, ollama, responses
from pennyweight.serve.gateway.ask import Head, Outcome, Piece
from pennyweight.serve.gateway.messages import MessageTranslation
from pennyweight.serve.gateway.ollama import OllamaTranslation
from pennyweight.serve.gateway.refusals import Refused
from pennyweight.serve.gateway.responses import ResponseTranslation
from pennyweight.serve.gateway.translation import Translation, translated

ARGUMENTS = '{"city": "Ulm"}'
CALL = {"index": 0, "id": "abc", "type": "function", "function": {"name": "weather", "arguments": ""}}
DELTAS: list[dict[str, Any]] = [
    {"role": "assistant", "content": ""},
    {"reasoning_content": "Hm"},
    {"reasoning_content": "."},
    {"content": "Let me "},
    {"content": "look."},
    {"tool_calls": [CALL]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[:6]}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[6:]}}]},
]
USAGE = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
MESSAGE = {
    "role": "assistant",
    "content": "Let me look.",
    "reasoning_content": "Hm.",
    "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": ARGUMENTS}}],
}


def chunk(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "finish_reason": None, **choice}]}).encode() + b"\n\n"


async def streamed() -> AsyncGenerator[Piece]:
    yield Head(200, "text/event-stream")
    events = [chunk(delta=delta) for delta in DELTAS] + [chunk(delta={}, finish_reason="tool_calls")]
    events.append(b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n")
    for event in events:
        yield event[:20]  # events come in any pieces
        yield event[20:]
    yield b"data: [DONE]\n\n"
    yield Outcome(1.0, 9, whole=True)


async def whole() -> AsyncGenerator[Piece]:
    yield Head(200, "application/json")
    yield json.dumps({"choices": [{"message": MESSAGE, "finish_reason": "tool_calls"}], "usage": USAGE}).encode()
    yield Outcome(1.0, 9, whole=True)


def told(pieces: AsyncGenerator[Piece], made: Translation) -> list[Piece]:
    async def gather() -> list[Piece]:
        return [piece async for piece in translated(pieces, made)]

    return asyncio.run(gather())


def text_of(pieces: list[Piece]) -> bytes:
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


def events_of(pieces: list[Piece]) -> list[dict[str, Any]]:
    return [json.loads(part.split(b"data: ")[1]) for part in text_of(pieces).split(b"\n\n") if b"data: " in part]


def test_anthropics_blocks_open_grow_and_close_in_order() -> None:
    pieces = told(streamed(), MessageTranslation({"model": "m"}))
    events = events_of(pieces)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "ping"] and kinds[-2:] == ["message_delta", "message_stop"]
    blocks = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert blocks == ["thinking", "text", "tool_use"]
    assert [event["index"] for event in events if event["type"] == "content_block_stop"] == [0, 1, 2]
    parts = [event["delta"].get("partial_json", "") for event in events if event["type"] == "content_block_delta"]
    assert "".join(parts) == ARGUMENTS
    assert events[-2]["delta"]["stop_reason"] == "tool_use" and events[-2]["usage"]["output_tokens"] == 9
    assert isinstance(pieces[-1], Outcome)
    body = json.loads(text_of(told(whole(), MessageTranslation({}))))
    assert [block["type"] for block in body["content"]] == ["thinking", "text", "tool_use"]
    assert body["content"][2]["input"] == {"city": "Ulm"}


def test_a_response_holds_reasoning_a_message_and_a_call() -> None:
    kept: list[ResponseTranslation] = []
    events = events_of(told(streamed(), ResponseTranslation({}, kept.append)))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = events[-1]["response"]
    assert events[-1]["type"] == "response.completed"
    assert [item["type"] for item in final["output"]] == ["reasoning", "message", "function_call"]
    done = next(event for event in events if event["type"] == "response.function_call_arguments.done")
    assert done["arguments"] == final["output"][2]["arguments"] == ARGUMENTS
    assert kept[0].message()["tool_calls"][0]["function"] == {"name": "weather", "arguments": ARGUMENTS}
    body = json.loads(text_of(told(whole(), ResponseTranslation({}))))
    assert [item["type"] for item in body["output"]] == ["reasoning", "message", "function_call"]


def test_ollamas_lines_hold_the_same() -> None:
    pieces = told(streamed(), OllamaTranslation({}, generates=False))
    assert isinstance(pieces[0], Head) and pieces[0].content_type == "application/x-ndjson"
    lines = [json.loads(line) for line in text_of(pieces).splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == "Let me look."
    assert "".join(line["message"].get("thinking", "") for line in lines) == "Hm."
    calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert calls == [{"function": {"name": "weather", "arguments": {"city": "Ulm"}}}]
    assert lines[-1]["done"] and lines[-1]["eval_count"] == 9
    body = json.loads(text_of(told(whole(), OllamaTranslation({}, generates=False))))
    assert body["message"]["tool_calls"] == calls and body["message"]["thinking"] == "Hm."


def test_anthropics_messages_become_ours() -> None:
    chat = messages.as_chat(
        {
            "model": "m",
            "max_tokens": 5,
            "system": [{"type": "text", "text": "Be brief"}],
            "stop_sequences": ["x"],
            "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "messages": [
                {"role": "user", "content": "How is it?"},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {"a": 1}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "wet"}]},
            ],
        }
    )
    assert [message["role"] for message in chat["messages"]] == ["system", "user", "assistant", "tool"]
    assert json.loads(chat["messages"][2]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    assert (chat["tool_choice"], chat["parallel_tool_calls"], chat["stop"]) == ("required", False, ["x"])


def test_responses_items_become_ours() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    answer = {"type": "function_call_output", "call_id": "c", "output": "wet"}
    items = [{"role": "user", "content": "How is it?"}, call, {**call, "call_id": "d"}, answer]
    tools = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
    chat = responses.as_chat({"input": items, "tools": tools, "tool_choice": {"type": "function", "name": "weather"}})
    assert [message["role"] for message in chat["messages"]] == ["user", "assistant", "tool"]
    assert len(chat["messages"][1]["tool_calls"]) == 2
    assert chat["tool_choice"]["function"]["name"] == "weather"
    assert chat["tools"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize(
    ("translate", "body"),
    [
        (messages.as_chat, {"messages": [{"role": "user", "content": "x"}]}),
        (messages.as_chat, {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        (messages.as_chat, {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "tools": [{"name": "f"}]}),
        (messages.as_chat, {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "max_tokns": 2}),
        (lambda body: ollama.as_chat("/api/chat", body), {"messages": [{"role": "user", "images": ["x"]}]}),
        (lambda body: ollama.as_chat("/api/chat", body), {"messages": []}),
        (lambda body: ollama.as_chat("/api/generate", body), {"prompt": "x", "raw": True}),
        (responses.as_chat, {"input": [{"type": "computer_call"}]}),
        (responses.as_chat, {"input": "x", "truncation": "auto"}),
        (messages.as_chat, {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "stop_sequences": "a"}),
    ],
)
def test_what_cannot_be_translated_is_refused(translate: Any, body: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        translate(body)


def test_the_oldest_conversations_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "MAX_KEPT", 2)
    kept = responses.Conversations()
    for name in ("a", "b", "c"):
        kept.keep("me", {"id": name}, [{"role": "user", "content": name}])
    assert kept.chat("me", "c")[0]["content"] == "c"
    for tenant, name in (("me", "a"), ("you", "c")):
        with pytest.raises(Refused):
            kept.chat(tenant, name)


async def thinking() -> AsyncGenerator[Piece]:
    """A stream that says its usage in every chunk."""
    yield Head(200, "text/event-stream")
    for delta in DELTAS[:4]:
        value = json.loads(chunk(delta=delta)[6:]) | {"usage": {**USAGE, "completion_tokens": 0}}
        yield b"data: " + json.dumps(value).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"
    yield Outcome(1.0, 9, whole=True)


def test_a_message_begins_with_the_prompts_tokens_and_a_thought_ends_with_its_signature() -> None:
    found = events_of(told(thinking(), MessageTranslation({"model": "m"})))
    assert found[0]["message"]["usage"]["input_tokens"] == 5
    kinds = [event["delta"]["type"] for event in found if event["type"] == "content_block_delta"]
    assert kinds == ["thinking_delta", "thinking_delta", "signature_delta", "text_delta"]


ASKED = {"max_tokens": 2000, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    "thinking",
    [
        {"type": "enabled"},
        {"type": "enabled", "budget_tokens": 100},
        {"type": "enabled", "budget_tokens": 6000},
        {"type": "bogus"},
        {"budget_tokens": 1500},
        "enabled",
    ],
)
def test_thinking_that_cannot_be_is_refused(thinking: Any) -> None:
    with pytest.raises(Refused, match="thinking"):
        messages.as_chat({**ASKED, "thinking": thinking})


@pytest.mark.parametrize("thinking", [{"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}])
def test_thinking_that_can_be_is_taken(thinking: Any) -> None:
    assert "thinking" not in messages.as_chat({**ASKED, "thinking": thinking})


def test_a_response_repeats_what_it_was_asked() -> None:
    form = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}
    asked = {"prompt_cache_key": "k", "safety_identifier": "s", "text": form, "temperature": 0}
    told = ResponseTranslation(asked).as_json()
    assert {name: told[name] for name in asked} == asked
    assert told["top_p"] == 1.0 and told["truncation"] == "disabled" and told["tools"] == []


def test_thoughts_of_earlier_turns_reach_the_template() -> None:
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    items = [{"role": "user", "content": "hi"}, thought, {"role": "assistant", "content": "ho"}]
    [_, answer, _] = responses.as_chat({"input": [*items, {"role": "user", "content": "and?"}]})["messages"]
    assert answer == {"role": "assistant", "content": "ho", "reasoning_content": "Hm."}


def test_a_retention_that_is_none_is_refused() -> None:
    with pytest.raises(Refused, match="24h"):
        responses.as_chat({"input": "hi", "prompt_cache_retention": "forever"})


def test_an_answer_goes_on_from_a_last_assistants_message() -> None:
    asked = [{"role": "user", "content": "How is it?"}, {"role": "assistant", "content": "The weather"}]
    assert messages.as_chat({"max_tokens": 8, "messages": asked})["continue_final_message"] is True
    assert "continue_final_message" not in messages.as_chat({"max_tokens": 8, "messages": asked[:1]})


def test_a_refusal_of_ollamas_says_what_to_do() -> None:
    with pytest.raises(Refused, match="raw is not supported here: remove it"):
        ollama.as_chat("/api/generate", {"prompt": "x", "raw": True})


def test_a_response_has_the_log_probabilities_that_were_asked_for() -> None:
    asked = {"input": "x", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    chat = responses.as_chat(asked)
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, 2)
    row = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    made = ResponseTranslation(asked)
    sent = b"".join(
        made.take(chunk(delta=delta, logprobs={"content": [row]})[:-2]) for delta in ({}, {"content": "aa"})
    )
    assert sent.count(b'"logprob": -0.5') == 2  # a token without text comes with the next that has some
    (message,) = json.loads(json.dumps([made._item(block) for block in made.blocks]))
    assert message["content"][0]["logprobs"] == [row, row] and made.as_json()["top_logprobs"] == 2


def test_anthropics_output_config_is_a_form_and_an_effort() -> None:
    schema = {"type": "object"}
    asked = {"max_tokens": 8, "messages": [{"role": "user", "content": "x"}]}
    config = {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
    chat = messages.as_chat({**asked, "output_config": config, "cache_salt": "s"})
    assert chat["response_format"]["json_schema"]["schema"] == schema
    assert (chat["reasoning_effort"], chat["cache_salt"]) == ("low", "s")
    assert "reasoning_effort" not in messages.as_chat(
        {**asked, "output_config": config, "thinking": {"type": "disabled"}}
    )
    for wrong in ({"fromat": 1}, {"format": {"type": "text"}}, "x"):
        with pytest.raises(Refused):
            messages.as_chat({**asked, "output_config": wrong})
