"""Answers as OpenAI's API spells them: streamed or whole, chat or completion, and the scores of a prompt.

Source: OpenAI's API reference for /v1/completions and /v1/chat/completions; `return_token_ids` as vLLM's server has it.
"""

from __future__ import annotations

import base64
import codecs
import json
import struct
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pennyweight.generation import Event, Score
from pennyweight.openai_api.bodies import EmbeddingsBody
from pennyweight.openai_api.readers import Reader
from pennyweight.openai_api.reading import Reading
from pennyweight.tokenizer import Tokenizer

# A token, its log-probability (None: not known), and the likeliest at its place.
Row = tuple[int, float | None, Sequence[tuple[int, float]]]
FIRST_TOKEN = "x-first-token-seconds"  # header of a whole answer: from the request's arrival
READS = 512  # about so many while an answer grows threefold
ID_LENGTH = 9  # of calls: Mistral's templates take no other


@dataclass
class Answer:
    """One answer while it grows, and its spelling in both calls, streamed or whole. `prompt_rows` are the scores of the
    prompt, where `echo` asks for them; a `reader` parts a chat's text in content, reasoning and tool calls."""

    chat: bool
    model: str
    prompt_tokens: Sequence[int]
    tokenizer: Tokenizer
    echo: str = ""
    with_logprobs: bool = False
    with_token_ids: bool = False
    includes_usage: bool = False
    usage_in_chunks: bool = False
    tokens_as_ids: bool = False
    fingerprint: str = ""
    reader: Reader | None = None
    prompt_rows: Sequence[Row] = ()
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    index: int = 0
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    finish: str | None = None
    stopped_by: str | None = None
    cached: int | None = None
    reasoning_tokens: int = 0
    call_ids: list[str] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)
    _sent: Reading = field(default_factory=Reading)
    _read_at: int = 0

    def __post_init__(self) -> None:
        self.id = self.id or ("chatcmpl-" if self.chat else "cmpl-") + uuid.uuid4().hex
        self.text = self.echo

    @cached_property
    def _places(self) -> Places:
        """Made where log-probabilities ask for offsets: most answers need none."""
        return Places(self.tokenizer, self.echo, len(self.prompt_tokens) if self.echo else 0)

    def copies(self, count: int, first: int = 0) -> list[Answer]:
        """Several answers to the same request: one id, an index each, from `first` on."""
        return [replace(self, index=first + n, tokens=[], rows=[], call_ids=[]) for n in range(count)]

    def add(self, event: Event, text: str) -> None:
        self.tokens.extend(event.tokens)
        self.text += text
        self.cached = event.cached if event.cached is not None else self.cached
        if self.with_logprobs:
            self.rows.extend(rows_of(event))
        if event.finish:
            self.finish, self.stopped_by = event.finish, event.stopped_by
        if self.reader is not None and (self.finish or len(self.text) >= self._read_at):
            self.reading = reading = self.reader(self.text, self.finish is not None)
            self._read_at = len(self.text) + len(self.text) // READS  # a reading takes all text: longer, rarer
            if not (reading.content.strip() or reading.calls) and reading.reasoning:
                self.reasoning_tokens = len(self.tokens)
            if reading.calls and self.finish == "stop":
                self.finish = "tool_calls"

    def choice(self) -> dict[str, Any]:
        """The whole answer, as one of a body's choices."""
        choice: dict[str, Any] = {"index": self.index, "finish_reason": self.finish, "logprobs": None}
        choice["stop_reason"] = self.stopped_by
        if self.chat:
            choice["message"] = self._message()
        else:
            choice["text"] = self.text
        if self.with_logprobs:
            choice["logprobs"] = self._logprobs([*self.prompt_rows, *self.rows])
        if self.with_token_ids:
            choice["token_ids"] = self.tokens
            choice["prompt_token_ids"] = list(self.prompt_tokens)
        return choice

    def _message(self) -> dict[str, Any]:
        if self.reader is None:
            return {"role": "assistant", "content": self.text, "refusal": None}
        reading = self.reading
        message: dict[str, Any] = {"role": "assistant", "content": reading.content, "refusal": None}
        if reading.reasoning:
            message["reasoning_content"] = reading.reasoning
        if reading.calls:
            message["content"] = reading.content or None
            message["tool_calls"] = [
                _called(self._call_id(n), call.name, call.arguments) for n, call in enumerate(reading.calls)
            ]
        return message

    def chunk(self, text: str, event: Event | None, finish: str | None) -> bytes:
        """Server-sent events for what came. The common case, text alone, is put together without a JSON encoder for the
        rest."""
        if self.reader is not None:
            return self._read_chunk(event, finish)
        if finish is None and not (self.with_logprobs or self.with_token_ids or self.usage_in_chunks):
            return self._text_prefix + json.dumps(text).encode() + self._text_suffix
        said: dict[str, Any] = {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        return _sse(self.envelope(self._choice_of(said, event, finish), streamed=True))

    def _read_chunk(self, event: Event | None, finish: str | None) -> bytes:
        deltas = list(self._deltas())
        if finish or (not deltas and event is not None and (self.with_logprobs or self.with_token_ids)):
            deltas.append({})
        events = []
        for place, delta in enumerate(deltas):
            last = place == len(deltas) - 1
            told = event if place == 0 else None
            choice = self._choice_of({"delta": delta}, told, self.finish if finish and last else None)
            events.append(_sse(self.envelope(choice, streamed=True)))
        return b"".join(events)

    def _deltas(self) -> Sequence[dict[str, Any]]:
        """What a reading has more than what was sent."""
        now, before = self.reading, self._sent
        self._sent = now
        deltas: list[dict[str, Any]] = []
        if len(now.reasoning) > len(before.reasoning):
            deltas.append({"reasoning_content": now.reasoning[len(before.reasoning) :]})
        if len(now.content) > len(before.content):
            deltas.append({"content": now.content[len(before.content) :]})
        for place, call in enumerate(now.calls):
            if place >= len(before.calls):
                first = {"index": place, **_called(self._call_id(place), call.name, "")}
                deltas.append({"tool_calls": [first]})
            sent = before.calls[place].arguments if place < len(before.calls) else ""
            if len(call.arguments) > len(sent):
                more = {"index": place, "function": {"arguments": call.arguments[len(sent) :]}}
                deltas.append({"tool_calls": [more]})
        return deltas

    def _call_id(self, place: int) -> str:
        while len(self.call_ids) <= place:
            self.call_ids.append(uuid.uuid4().hex[:ID_LENGTH])
        return self.call_ids[place]

    def _choice_of(self, said: dict[str, Any], event: Event | None, finish: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": self.index, "finish_reason": finish, "logprobs": None, **said}
        choice |= {"stop_reason": self.stopped_by} if finish else {}
        if self.with_logprobs and event is not None:
            choice["logprobs"] = self._logprobs(rows_of(event))
        if self.with_token_ids and event is not None:
            choice["token_ids"] = list(event.tokens)
        return choice

    def opening(self) -> bytes:
        """The first chunk of a chat stream carries the role; a completion's carries the echo."""
        if self.chat:
            delta = {"role": "assistant", "content": "", "refusal": None}
            choice = {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}
            return _sse(self.envelope(choice, streamed=True))
        if not self.echo:
            return b""
        choice = {"index": self.index, "text": self.echo, "logprobs": None, "finish_reason": None}
        if self.prompt_rows:
            choice["logprobs"] = self._logprobs(self.prompt_rows)
        return _sse(self.envelope(choice, streamed=True))

    def usage_chunk(self, answers: Sequence[Answer]) -> bytes:
        return _sse(self.envelope(None, streamed=True) | {"usage": usage_of(answers)})

    def envelope(self, choice: dict[str, Any] | None, *, streamed: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if streamed else "chat.completion") if self.chat else "text_completion"
        choices = [choice] if choice is not None else []
        made = {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
        made["system_fingerprint"] = self.fingerprint or None
        if not streamed or not self.includes_usage:
            return made
        return made | {"usage": usage_of([self]) if self.usage_in_chunks else None}

    @property
    def _text_prefix(self) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        opening = '"delta":{"content":' if self.chat else '"text":'
        return (
            f'data: {{"id":"{self.id}","object":"{kind}","created":{self.created},"model":{json.dumps(self.model)},'
            f'"system_fingerprint":{json.dumps(self.fingerprint or None)},"choices":[{{"index":{self.index},{opening}'
        ).encode()

    @property
    def _text_suffix(self) -> bytes:
        closing = "}" if self.chat else ""
        usage = ',"usage":null' if self.includes_usage else ""
        return f'{closing},"logprobs":null,"finish_reason":null}}]{usage}}}\n\n'.encode()

    def _logprobs(self, rows: Sequence[Row]) -> dict[str, Any]:
        name = spelled_as_id if self.tokens_as_ids else self.tokenizer.token_text
        names = [name(token) for token, _, _ in rows]
        if not self.chat:
            tops = [_tops(name, own, logprob, others) for own, (_, logprob, others) in zip(names, rows, strict=True)]
            return {
                "tokens": names,
                "token_logprobs": [logprob for _, logprob, _ in rows],
                "top_logprobs": tops,
                "text_offset": [self._places.next(token) for token, _, _ in rows],
            }
        spelled = self.tokenizer.token_bytes
        content = [
            _chat_logprob(own, logprob or 0.0, spelled(token))
            | {"top_logprobs": [_chat_logprob(name(t), p, spelled(t)) for t, p in others]}
            for own, (token, logprob, others) in zip(names, rows, strict=True)
        ]
        return {"content": content, "refusal": None}


class Places:
    """Where each token begins in an answer's text, in characters. In the echo of a prompt a token is looked for, since
    those that the server added are no part of it; in what was made, control tokens are none."""

    def __init__(self, tokenizer: Tokenizer, echo: str, prompt_tokens: int) -> None:
        self._tokenizer, self._prompt_left = tokenizer, prompt_tokens
        self._echo, self._read, self._echoed = echo.encode(errors="replace"), 0, len(echo)
        self._characters, self._decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, token: int) -> int:
        """Of a token that begins within a character: that character's place."""
        if self._prompt_left == 0:
            self._characters = max(self._characters, self._echoed)
        place = self._characters
        self._characters += len(self._decoder.decode(self._spelled(token)))
        self._prompt_left -= 1
        return place

    def _spelled(self, token: int) -> bytes:
        piece = self._tokenizer.token_bytes(token)
        if self._prompt_left <= 0:
            return piece if self._tokenizer.decode([token]) else b""
        without_blank = piece.lstrip(b" ")  # which some tokenizers add at a text's begin
        for spelled in (piece, without_blank):
            if spelled and self._echo.startswith(spelled, self._read):
                self._read += len(spelled)
                return spelled
        return b""


def rows_of(event: Event) -> list[Row]:
    return list(zip(event.tokens, event.logprobs, event.alternatives or [()] * len(event.tokens), strict=True))


def usage_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """Each prompt counts once, however many answers it has."""
    prompts = {id(answer.prompt_tokens): answer for answer in answers}.values()
    prompt, completion = sum(len(a.prompt_tokens) for a in prompts), sum(len(answer.tokens) for answer in answers)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if any(answer.cached is not None for answer in answers):
        usage["prompt_tokens_details"] = {"cached_tokens": sum(answer.cached or 0 for answer in prompts)}
    usage["completion_tokens_details"] = {"reasoning_tokens": sum(a.reasoning_tokens for a in answers)}
    return usage


def whole_body(answers: Sequence[Answer]) -> dict[str, Any]:
    """The body of all answers to one request."""
    first = answers[0].choice()
    body = answers[0].envelope(first, streamed=False)
    body["choices"] += [answer.choice() for answer in answers[1:]]
    if answers[0].chat and answers[0].with_token_ids:  # where vLLM's server has it; all choices have one prompt
        body["prompt_token_ids"] = list(answers[0].prompt_tokens)
    return body | {"usage": usage_of(answers)}


def rows_of_prompt(tokens: Sequence[int], score: Score, start: int, count: int) -> list[Row]:
    """Scores of a prompt from place `start` on, with the `count` likeliest at each place."""
    known = zip(tokens[start:], score.logprobs, score.tops, strict=True)
    return [*((token, None, ()) for token in tokens[:start]), *((t, own, tops[:count]) for t, own, tops in known)]


def spelled_as_id(token: int) -> str:
    """As `return_tokens_as_token_ids` of vLLM's server has it: the texts of two tokens can be the same."""
    return f"token_id:{token}"


def _called(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tops(name: Any, own: str, logprob: float | None, others: Sequence[tuple[int, float]]) -> dict[str, float] | None:
    """The token's own text is always among them, and its value goes before another token's of the same text."""
    if logprob is None:
        return None
    return {own: logprob} | {name(token): value for token, value in others} | {own: logprob}


def _chat_logprob(text: str, logprob: float, spelled: bytes) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(spelled)}


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def embeddings(
    vectors: Sequence[Sequence[float]], texts: Sequence[Sequence[int]], body: EmbeddingsBody, model: str
) -> dict[str, Any]:
    """The body that answers a request for embeddings; base64 holds little-endian float32."""
    rows = []
    for place, vector in enumerate(vectors):
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        told = packed if body.encoding_format == "base64" else list(vector)
        rows.append({"object": "embedding", "index": place, "embedding": told})
    used = sum(map(len, texts))
    usage = {"prompt_tokens": used, "total_tokens": used}
    return {"object": "list", "data": rows, "model": body.model or model, "pooling": body.pooling, "usage": usage}
