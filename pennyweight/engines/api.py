"""The OpenAI API's bodies: what may be asked, and how answers are spelled. No engine and no network in here.

Source: OpenAI's API reference for /v1/completions and /v1/chat/completions; `ignore_eos`, `return_token_ids` and
`max_tokens: 0` with `echo` are spelled as vLLM's server has them, `logprob_start_len` as SGLang's.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pennyweight.engines import Event, Score
from pennyweight.tokenizer import Tokenizer

MOST_ANSWERS = 16  # of one request


class StreamOptions(BaseModel):
    include_usage: bool = False


class NamedSchema(BaseModel):
    name: str = ""
    definition: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type json_schema needs json_schema, an object with the schema")
        return self

    @property
    def asked_schema(self) -> dict[str, Any] | None:
        if self.type == "text":
            return None
        return self.json_schema.definition if self.json_schema else {"type": "object"}


class Body(BaseModel):
    """What both calls share."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MOST_ANSWERS)
    ignore_eos: bool = False
    return_token_ids: bool = False
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] = []

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        """OpenAI's schema lets clients send null for what they leave to the server."""
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def asked_schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow."""
        return self.response_format.asked_schema if self.response_format else None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(Body):
    prompt: str | list[int] = Field(min_length=1)
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0)
    echo: bool = False
    logprob_start_len: int = Field(0, ge=0)

    @property
    def top_logprobs(self) -> int | None:
        return self.logprobs


class TokenizeBody(BaseModel):
    """As vLLM's server has it."""

    prompt: str = Field(min_length=1)
    add_special_tokens: bool = True


class Part(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = ""

    def plain(self) -> dict[str, str]:
        parts = self.content if isinstance(self.content, list) else []
        return {"role": self.role, "content": "".join(p.text for p in parts) if parts else str(self.content or "")}


class ChatBody(Body):
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs_asked: int | None = Field(None, ge=0, le=20, alias="top_logprobs")

    @property
    def top_logprobs(self) -> int | None:
        return (self.top_logprobs_asked or 0) if self.logprobs else None


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
        return _sse(self._envelope(choice, streamed=True))

    def opening(self) -> bytes:
        """The first chunk of a chat stream carries the role; a completion's carries the echo."""
        if self.chat:
            delta = {"role": "assistant", "content": ""}
            choice = {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}
            return _sse(self._envelope(choice, streamed=True))
        return self.chunk(self.echo, None, None) if self.echo else b""

    def usage_chunk(self, answers: Sequence[Answer]) -> bytes:
        return _sse(self._envelope(None, streamed=True) | {"usage": usage_of(answers)})

    def _envelope(self, choice: dict[str, Any] | None, *, streamed: bool) -> dict[str, Any]:
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
    body = answers[0]._envelope(first, streamed=False)
    body["choices"] += [answer.choice() for answer in answers[1:]]
    return body | {"usage": usage_of(answers)}


def scored(answer: Answer, score: Score, start: int = 1) -> dict[str, Any]:
    """The answer to `echo` with `max_tokens: 0`: log-probabilities of the prompt itself from place `start` on.

    `top_logprobs` holds the most likely token; where that is the prompt's own token there is one entry, else two.
    """
    name = answer.tokenizer.token_text
    tokens = [name(token) for token in answer.prompt_tokens]
    rows: list[dict[str, float] | None] = [None] * start
    agreed: list[bool | None] = [None] * start
    for place, own in enumerate(answer.prompt_tokens[start:]):
        agreed.append(score.top_tokens[place] == own)
        rows.append(
            {name(score.top_tokens[place]): score.top_logprobs[place], tokens[place + start]: score.logprobs[place]}
        )
    logprobs = {
        "tokens": tokens,
        "token_logprobs": [*[None] * start, *score.logprobs],
        "top_logprobs": rows,
        "top_is_own": agreed,  # token texts can collide, ids cannot
        "text_offset": _offsets(tokens),
    }
    choice = {"index": 0, "text": answer.echo, "finish_reason": "length", "logprobs": logprobs}
    return answer._envelope(choice, streamed=False) | {"usage": usage_of([answer])}


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_event(message: str) -> bytes:
    """How a stream ends that has begun and cannot go on."""
    return b"data: " + json.dumps(error_body(message, "server_error")).encode() + b"\n\n"


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
