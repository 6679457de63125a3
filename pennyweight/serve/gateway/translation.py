"""Other APIs in front of chat completions: a stage that asks a chat in their place and tells its answer in their words.

A chat answer, streamed or whole, becomes blocks in their order: reasoning, text, and a call each. A translation says
how its API spells that a block opens, grows and closes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from pennyweight.errors import PennyweightError
from pennyweight.serve.gateway.ask import Ask, Head, Piece, Stage
from pennyweight.serve.gateway.refusals import refusal
from pennyweight.serve.gateway.relay import DONE, EVENTS, message_of

CHAT_PATH = "/v1/chat/completions"
Kind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """A part of an answer. A call has an id and a name; its text is the JSON of its arguments."""

    kind: Kind
    place: int
    text: str = ""
    id: str = ""
    name: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)  # of a text's tokens, where they were asked for


class Translation(ABC):
    """One answer while it grows."""

    stream_type: ClassVar[str] = EVENTS

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.asked = asked
        self.blocks: list[Block] = []
        self.finish: str | None = None
        self.stopped_by: str | None = None
        self.usage: Mapping[str, Any] = {}
        self.fresh_logprobs: list[dict[str, Any]] = []  # of the text that a block grows by
        self._has_begun = False

    @abstractmethod
    def opening(self) -> bytes: ...

    @abstractmethod
    def opened(self, block: Block) -> bytes: ...

    @abstractmethod
    def grew(self, block: Block, more: str) -> bytes: ...

    @abstractmethod
    def closed(self, block: Block) -> bytes: ...

    @abstractmethod
    def closing(self) -> bytes: ...

    @abstractmethod
    def failed(self, message: str) -> bytes: ...

    @abstractmethod
    def as_json(self) -> Mapping[str, Any]: ...

    def ended(self) -> None:  # noqa: B027  # most have nothing to do then
        """Called once, when the answer is whole."""

    def take(self, event: bytes) -> bytes:
        """What follows from one event of the chat's stream."""
        if event.startswith(b":"):
            return event + b"\n\n"
        if event.startswith(DONE):
            self.ended()
            return self._begin() + (self.closed(self.blocks[-1]) if self.blocks else b"") + self.closing()
        value = json.loads(event[6:])
        if "error" in value:
            return self._begin() + self.failed(message_of(event))
        self.usage = value.get("usage") or self.usage
        return self._begin() + b"".join(self._choice(choice, choice["delta"]) for choice in value["choices"])

    def _begin(self) -> bytes:
        """The opening, once: with the first event, which may say how long the prompt is."""
        if self._has_begun:
            return b""
        self._has_begun = True
        return self.opening()

    def take_whole(self, body: bytes) -> None:
        value = json.loads(body)
        self.usage = value["usage"]
        self._choice(value["choices"][0], value["choices"][0]["message"])
        self.ended()

    def _choice(self, choice: Mapping[str, Any], said: Mapping[str, Any]) -> bytes:
        self.finish = choice["finish_reason"] or self.finish
        self.stopped_by = choice.get("stop_reason") or self.stopped_by
        self.fresh_logprobs += (choice.get("logprobs") or {}).get("content") or []
        return b"".join(self._part(*part) for part in _parts(said))

    def _part(self, kind: Kind, more: str, call: Mapping[str, Any]) -> bytes:
        sent = b""
        last = self.blocks[-1] if self.blocks else None
        if last is None or last.kind != kind or call.get("id"):
            sent += self.closed(last) if last else b""
            last = Block(kind, len(self.blocks), id=call.get("id", ""), name=call.get("function", {}).get("name", ""))
            self.blocks.append(last)
            sent += self.opened(last)
        last.text += more
        sent += self.grew(last, more) if more else b""
        if kind == "text":
            last.logprobs += self.fresh_logprobs
        self.fresh_logprobs = []
        return sent


def _parts(said: Mapping[str, Any]) -> Iterator[tuple[Kind, str, Mapping[str, Any]]]:
    """Of a message, or of what a stream adds to it."""
    if text := said.get("reasoning_content"):
        yield "reasoning", text, {}
    if text := said.get("content"):
        yield "text", text, {}
    for call in said.get("tool_calls") or ():
        yield "call", call["function"].get("arguments") or "", call


class Translating(ABC):
    """The stage: a request to one of `paths` is asked as a chat completion and its answer told back. Where
    `tells_errors`, errors are told in the API's own shape too; else they pass unchanged."""

    paths: ClassVar[tuple[str, ...]]
    tells_errors: ClassVar[bool] = True

    def __init__(self, inner: Stage) -> None:
        self._inner = inner

    @abstractmethod
    def as_chat(self, ask: Ask) -> tuple[dict[str, Any], Translation]:
        """The chat's body, and what tells its answer. Raises `Refused`."""

    def error(self, body: bytes, status: int) -> bytes:
        """An error in OpenAI's shape, in this API's."""
        del status
        return body

    def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        return self._translated(ask) if ask.path in self.paths else self._inner(ask)

    async def _translated(self, ask: Ask) -> AsyncGenerator[Piece]:
        status = 0
        try:
            body, made = self.as_chat(ask)
            inner = self._inner(ask.translated(CHAT_PATH, body, json.dumps(body).encode()))
            async with aclosing(translated(inner, made)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Head):
                        status = piece.status
                    elif isinstance(piece, bytes) and status != 200:
                        piece = self.error(piece, status)
                    yield piece
        except PennyweightError as error:
            if status or not self.tells_errors:
                raise
            response = refusal(error)
            headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
            yield Head(response.status_code, "application/json", headers)
            yield self.error(bytes(response.body), response.status_code)


def message_in(body: bytes) -> str:
    """What an error in OpenAI's shape says."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:300]


async def translated(pieces: AsyncGenerator[Piece], made: Translation) -> AsyncGenerator[Piece]:
    """An answer that is no success passes unchanged."""
    async with aclosing(pieces):
        head = await anext(pieces)
        assert isinstance(head, Head)
        streams = head.status == 200 and head.content_type == EVENTS
        yield replace(head, content_type=made.stream_type) if streams else head
        if head.status != 200:
            async for piece in pieces:
                yield piece
        elif streams:
            async for piece in _streamed(pieces, made):
                yield piece
        else:
            parts = [piece async for piece in pieces]
            made.take_whole(b"".join(piece for piece in parts if isinstance(piece, bytes)))
            yield json.dumps(made.as_json()).encode()
            for piece in parts:
                if not isinstance(piece, bytes):
                    yield piece


async def _streamed(pieces: AsyncGenerator[Piece], made: Translation) -> AsyncGenerator[Piece]:
    rest = b""
    async for piece in pieces:
        if not isinstance(piece, bytes):
            yield piece
            continue
        *events, rest = (rest + piece).split(b"\n\n")
        if text := b"".join(made.take(event) for event in events):
            yield text


def event(kind: str, /, **more: Any) -> bytes:
    """As both APIs spell one: its name, and its name again in the data."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()
