"""Answers as OpenAI's API spells them: streamed or whole, chat or completion, and the scores of a prompt.

Source: OpenAI's API reference for /v1/completions and /v1/chat/completions; `return_token_ids` as vLLM's server has it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pennyweight.generation import Event, Score
from pennyweight.tokenizer import Tokenizer


@dataclass
class Answer:
    """One answer while it grows, and its spelling in both calls, streamed or whole."""

    chat: bool
    model: str
    prompt_tokens: Sequence[int]
    tokenizer: Tokenizer
    echo: str = ""
    with_logprobs: bool = False
    with_token_ids: bool = False
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    index: int = 0
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprob_rows: list[tuple[int, float, Sequence[tuple[int, float]]]] = field(default_factory=list)
    finish: str | None = None

    def __post_init__(self) -> None:
        self.id = self.id or ("chatcmpl-" if self.chat else "cmpl-") + uuid.uuid4().hex
        self.text = self.echo

    def copies(self, count: int) -> list[Answer]:
        """Several answers to the same request: one id, an index each."""
        return [replace(self, index=n, tokens=[], logprob_rows=[]) for n in range(count)]

    def add(self, event: Event, text: str) -> None:
        self.tokens.extend(event.tokens)
        self.text += text
        if self.with_logprobs:
            alternatives = event.alternatives or [()] * len(event.tokens)
            self.logprob_rows.extend(zip(event.tokens, event.logprobs, alternatives, strict=True))

    def choice(self) -> dict[str, Any]:
        """The whole answer, as one of a body's choices."""
        choice: dict[str, Any] = {"index": self.index, "finish_reason": self.finish, "logprobs": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": self.text}
        else:
            choice["text"] = self.text
        if self.with_logprobs:
            choice["logprobs"] = self._logprobs(self.logprob_rows)
        if self.with_token_ids:
            choice["token_ids"] = self.tokens
            choice["prompt_token_ids"] = list(self.prompt_tokens)
        return choice

    def chunk(self, text: str, event: Event | None, finish: str | None) -> bytes:
        """One server-sent event. The common case, text alone, is put together without a JSON encoder for the rest."""
        if finish is None and not self.with_logprobs and not self.with_token_ids:
            return self._text_prefix + json.dumps(text).encode() + self._text_suffix
        choice: dict[str, Any] = {"index": self.index, "finish_reason": finish, "logprobs": None}
        choice |= {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        if self.with_logprobs and event is not None:
            alternatives = event.alternatives or [()] * len(event.tokens)
            choice["logprobs"] = self._logprobs(list(zip(event.tokens, event.logprobs, alternatives, strict=True)))
        if self.with_token_ids and event is not None:
            choice["token_ids"] = list(event.tokens)
        return _sse(self.envelope(choice, streamed=True))

    def opening(self) -> bytes:
        """The first chunk of a chat stream carries the role; a completion's carries the echo."""
        if self.chat:
            delta = {"role": "assistant", "content": ""}
            choice = {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}
            return _sse(self.envelope(choice, streamed=True))
        return self.chunk(self.echo, None, None) if self.echo else b""

    def usage_chunk(self, answers: Sequence[Answer]) -> bytes:
        return _sse(self.envelope(None, streamed=True) | {"usage": usage_of(answers)})

    def envelope(self, choice: dict[str, Any] | None, *, streamed: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if streamed else "chat.completion") if self.chat else "text_completion"
        choices = [choice] if choice is not None else []
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    @property
    def _text_prefix(self) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        opening = '"delta":{"content":' if self.chat else '"text":'
        return (
            f'data: {{"id":"{self.id}","object":"{kind}","created":{self.created},"model":{json.dumps(self.model)},'
            f'"choices":[{{"index":{self.index},{opening}'
        ).encode()

    @property
    def _text_suffix(self) -> bytes:
        closing = "}" if self.chat else ""
        return f'{closing},"logprobs":null,"finish_reason":null}}]}}\n\n'.encode()

    def _logprobs(self, rows: Sequence[tuple[int, float, Sequence[tuple[int, float]]]]) -> dict[str, Any]:
        name = self.tokenizer.token_text
        if not self.chat:
            return {
                "tokens": [name(token) for token, _, _ in rows],
                "token_logprobs": [logprob for _, logprob, _ in rows],
                "top_logprobs": [{name(t): p for t, p in alternatives} for _, _, alternatives in rows],
                "text_offset": _offsets([name(token) for token, _, _ in rows]),
            }
        content = []
        for token, logprob, alternatives in rows:
            top = [_chat_logprob(name(t), p) for t, p in alternatives]
            content.append(_chat_logprob(name(token), logprob) | {"top_logprobs": top})
        return {"content": content, "refusal": None}


def usage_of(answers: Sequence[Answer]) -> dict[str, int]:
    """The prompt counts once."""
    prompt, completion = len(answers[0].prompt_tokens), sum(len(answer.tokens) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def whole_body(answers: Sequence[Answer]) -> dict[str, Any]:
    """The body of all answers to one request."""
    first = answers[0].choice()
    body = answers[0].envelope(first, streamed=False)
    body["choices"] += [answer.choice() for answer in answers[1:]]
    return body | {"usage": usage_of(answers)}


def scored(answer: Answer, score: Score, start: int = 1, *, count: int = 1, by_id: bool = False) -> dict[str, Any]:
    """The answer to `echo` with `max_tokens: 0`: log-probabilities of the prompt itself from place `start` on.

    `top_logprobs` holds the most likely tokens and the prompt's own. With `by_id` (`return_tokens_as_token_ids`, as
    vLLM's server has it) tokens are spelled "token_id:7", because the texts of two tokens can be the same.
    """
    name = spelled_as_id if by_id else answer.tokenizer.token_text
    tokens = [name(token) for token in answer.prompt_tokens]
    rows: list[dict[str, float] | None] = [None] * start
    for tops, own, logprob in zip(score.tops, tokens[start:], score.logprobs, strict=True):
        rows.append({own: logprob} | {name(token): value for token, value in tops[:count]} | {own: logprob})
    logprobs = {
        "tokens": tokens,
        "token_logprobs": [*[None] * start, *score.logprobs],
        "top_logprobs": rows,
        "text_offset": _offsets(tokens),
    }
    choice = {"index": 0, "text": answer.echo, "finish_reason": "length", "logprobs": logprobs}
    return answer.envelope(choice, streamed=False) | {"usage": usage_of([answer])}


def spelled_as_id(token: int) -> str:
    return f"token_id:{token}"


def _chat_logprob(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _offsets(tokens: Sequence[str]) -> list[int]:
    offsets, position = [], 0
    for token in tokens:
        offsets.append(position)
        position += len(token)
    return offsets


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
