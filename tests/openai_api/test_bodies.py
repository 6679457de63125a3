"""The OpenAI bodies: what may be asked, what becomes of it, and how answers are spelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pennyweight.engines.scripted import Scripted
from pennyweight.generation import Event, Score
from pennyweight.openai_api.answers import Answer, rows_of_prompt, whole_body
from pennyweight.openai_api.bodies import ChatBody, CompletionBody, Message
from pennyweight.tokenizer import Tokenizer
from pennyweight.worker.asking import Served
from pennyweight.worker.prompts import Refused

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory: Path) -> Tokenizer:
    return Tokenizer(tokenizer_directory)


@pytest.fixture(scope="module")
def served(tokenizer: Tokenizer) -> Served:
    return Served(Scripted(), None, tokenizer, None, ("model",), 256)  # type: ignore[arg-type]


def answer(tokenizer: Tokenizer, **wanted: Any) -> Answer:
    return Answer(**{"chat": True, "model": "model", "prompt_tokens": [5, 6], "tokenizer": tokenizer} | wanted)


def event_of(chunk: bytes) -> dict[str, Any]:
    assert chunk.startswith(b"data: ") and chunk.endswith(b"\n\n")
    return json.loads(chunk[6:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": 2.1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"n": 17},
        {"n": 0},
        {"max_tokens": -1},
        {"logprobs": -1},
        {"seed": 2**64},
        {"prompt": ""},
        {"prompt": []},
        {"prompt": [["a"]]},
        {"prompt": ["a", ""]},
        {"temperature": "1"},
        {"max_tokens": True},
        {"stream": "true"},
        {"n": "2"},
        {"logit_bias": {"a": 1}},
        {"logit_bias": {"5": 101}},
        {"stream_options": {"include_usage": True}},
        {"stop": 5},
    ],
)
def test_a_completion_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CompletionBody.model_validate({"prompt": "x"} | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"max_tokens": 0},
        {"top_logprobs": 21},
        {"tools": []},
        {"tool_choice": "auto"},
        {"cache_salt": ""},
        {
            "messages": [*USER, {"role": "assistant", "content": "a"}],
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
)
def test_a_chat_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatBody.model_validate({"messages": USER} | wrong)


def test_unknown_fields_are_passed_over() -> None:
    assert ChatBody.model_validate({"messages": USER, "user": "u", "service_tier": "auto"}).messages


@pytest.mark.parametrize(("given", "stops"), [(None, []), ("a", ["a"]), (["a", "b"], ["a", "b"])])
def test_stop_is_one_string_or_a_list_or_none(given: Any, stops: list[str]) -> None:
    assert ChatBody.model_validate({"messages": USER, "stop": given}).stops == stops


def test_text_parts_of_a_message_become_one_text() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    message = Message.model_validate({"role": "user", "content": parts})
    assert message.plain() == {"role": "user", "content": "one two"}
    assert Message.model_validate({"role": "assistant", "content": None}).plain()["content"] == ""


def test_ignore_eos_takes_the_stop_tokens_away(served: Served) -> None:
    plain, ignoring = (
        served.generation(CompletionBody(prompt="x", ignore_eos=ignore), [5]) for ignore in (False, True)
    )
    assert plain.stop_tokens == (2,) and ignoring.stop_tokens == ()


def test_a_chat_without_a_length_may_fill_the_context(served: Served) -> None:
    assert served.generation(ChatBody.model_validate({"messages": USER}), [5] * 56).max_tokens == 200


def test_max_completion_tokens_goes_before_max_tokens(served: Served) -> None:
    body = ChatBody.model_validate({"messages": USER, "max_tokens": 9, "max_completion_tokens": 4})
    assert served.generation(body, [5]).max_tokens == 4


@pytest.mark.parametrize(("prompt", "asked", "fits"), [(200, 56, True), (200, 57, False), (257, 1, False)])
def test_prompt_and_answer_together_must_fit_the_context(served: Served, prompt: int, asked: int, fits: bool) -> None:
    body = CompletionBody(prompt="x", max_tokens=asked)
    if fits:
        assert served.generation(body, [5] * prompt).max_tokens == asked
        return
    with pytest.raises(Refused, match="256") as refused:
        served.generation(body, [5] * prompt)
    assert refused.value.code == "context_length_exceeded"


def test_a_prompt_that_fills_the_context_leaves_no_room_for_a_chat_answer(served: Served) -> None:
    with pytest.raises(Refused) as refused:
        served.generation(ChatBody.model_validate({"messages": USER}), [5] * 256)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("text", ['plain "quoted" \\ back', "line\nbreak", "漢字 😀", "\u2028"])
@pytest.mark.parametrize("chat", [True, False])
def test_the_fast_chunk_says_the_same_as_any_other(tokenizer: Tokenizer, chat: bool, text: str) -> None:
    growing = answer(tokenizer, chat=chat, model='m"odel')
    fast = event_of(growing.chunk(text, Event("g", (7,)), None))
    slow = event_of(growing.chunk(text, Event("g", (7,)), "length"))
    assert slow["choices"][0].pop("finish_reason") == "length"
    assert slow["choices"][0].pop("stop_reason") is None
    assert fast["choices"][0].pop("finish_reason") is None
    assert fast == slow


def test_usage_counts_the_tokens_of_all_events(tokenizer: Tokenizer) -> None:
    growing = answer(tokenizer)
    growing.add(Event("g", (7, 8)), "a")
    growing.add(Event("g", (9,), finish="length"), "b")
    usage = whole_body([growing])["usage"]
    assert usage.pop("completion_tokens_details") == {"reasoning_tokens": 0}
    assert usage == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert whole_body([growing])["choices"][0]["message"] == {"role": "assistant", "content": "ab", "refusal": None}


def test_scoring_names_the_own_token_and_the_most_likely_one(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("ab cd")[:3]
    other = tokenizer.encode("Z")[0]
    rows = rows_of_prompt(tokens, Score([-0.7, -2.0], [[(tokens[1], -0.7)], [(other, -0.1)]]), 1, 1)
    growing = answer(tokenizer, chat=False, prompt_tokens=tokens, echo="ab cd", with_logprobs=True, prompt_rows=rows)
    body = whole_body([growing])
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [None, -0.7, -2.0]
    assert [row and len(row) for row in logprobs["top_logprobs"]] == [None, 1, 2]
    assert logprobs["top_logprobs"][2]["Z"] == -0.1
    assert body["usage"]["completion_tokens"] == 0


def test_offsets_count_the_characters_of_the_text(tokenizer: Tokenizer) -> None:
    """Control tokens that a prompt spells are in its echo, one that the server added is not, and a token that begins
    within a character has that character's place."""
    echo = "<|im_start|>user\n👩 yö"
    prompt = [tokenizer.backend.token_to_id("<|im_end|>"), *tokenizer.encode(echo, add_special_tokens=False)]
    rows = [(token, None, ()) for token in prompt]
    growing = answer(tokenizer, chat=False, prompt_tokens=prompt, echo=echo, with_logprobs=True, prompt_rows=rows)
    growing.add(
        Event("g", tokens := tuple(tokenizer.encode(" ended")), [-1.0] * len(tokens), finish="length"), " ended"
    )
    logprobs = whole_body([growing])["choices"][0]["logprobs"]
    assert logprobs["text_offset"][:2] == [0, 0]
    for offset, token in zip(logprobs["text_offset"][1:], logprobs["tokens"][1:], strict=True):
        assert "\N{REPLACEMENT CHARACTER}" in token or growing.text[offset:].startswith(token)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "x", "contnet": "y"}]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"function": {"name": "f"}, "bogus": 1}]},
        {"messages": [{"role": "user", "content": "x"}], "service_tier": "silly"},
    ],
)
def test_what_no_message_or_tool_has_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatBody.model_validate(body)


def test_what_an_answer_had_may_come_back(tokenizer: Tokenizer) -> None:
    message = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "id": "msg_1", "thinking": "y"}
    ChatBody.model_validate({"messages": [message, {"role": "user", "content": "z", "cache_control": {"type": "a"}}]})
