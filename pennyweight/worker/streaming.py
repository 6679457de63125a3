"""Sending answers: one generation or several of the same prompt, whole or as a stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from pennyweight.errors import EngineError, EngineRefused
from pennyweight.generation import Event, Generation
from pennyweight.openai_api.answers import FIRST_TOKEN, Answer, usage_of, whole_body
from pennyweight.openai_api.errors import error_event
from pennyweight.openai_api.sse import wait_for_disconnect
from pennyweight.tokenizer import Tokenizer
from pennyweight.worker.detokenizer import TextStream
from pennyweight.worker.host import Host

T = TypeVar("T")
QUIET_SECONDS = 10.0  # of tokens without text, after which a stream says that it goes on
STILL_HERE = b": tokens without text\n\n"
FAULTS = {"error": EngineError, "refused": EngineRefused}


class Generating:
    """One generation as pairs of (text, event). Leaving the iteration early cancels it in the engine."""

    def __init__(
        self,
        host: Host,
        tokenizer: Tokenizer,
        generation: Generation,
        stops: list[str],
        *,
        goes_on_from: Sequence[int] = (),
        with_control_tokens: bool = False,
    ) -> None:
        self._host, self._generation = host, generation
        self._text = TextStream(tokenizer, stops, goes_on_from=goes_on_from, with_control_tokens=with_control_tokens)

    async def __aiter__(self) -> AsyncIterator[tuple[str, Event]]:
        host, generation = self._host, self._generation
        events: asyncio.Queue[Event] = asyncio.Queue()
        host.submit(generation, events.put_nowait)
        try:
            while True:
                event = await events.get()
                if event.finish in FAULTS:
                    host.finish(generation.id, "error")
                    raise FAULTS[event.finish](event.error or "the engine failed")
                text = self._text.push(event.tokens)
                if self._text.stopped:
                    event = replace(event, finish="stop", stopped_by=self._text.stopped_by)
                if event.finish:
                    host.finish(generation.id, event.finish)
                    yield text + self._text.finish(), event
                    return
                yield text, event
        finally:
            host.cancel(generation.id)


class Ended(Generating):
    """Nothing is generated: the request asks for its prompt's scores."""

    def __init__(self) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[tuple[str, Event]]:
        yield "", Event("", finish="length")


class Rescored(Generating):
    """For engines that report fewer of the likeliest tokens than are asked for: the answer is generated, then scored,
    and given in one piece."""

    def __init__(self, inner: Generating, host: Host, generation: Generation, tops: int) -> None:
        self._inner, self._host, self._generation, self._tops = inner, host, generation, tops

    async def __aiter__(self) -> AsyncIterator[tuple[str, Event]]:
        text, tokens, last = "", list[int](), Event("")
        async for piece, event in self._inner:
            text, last = text + piece, event
            tokens += event.tokens
        if not tokens:
            yield text, last
            return
        prompt = self._generation.prompt
        score = await self._host.score([*prompt, *tokens], len(prompt))
        tops = [row[: self._tops] for row in score.tops]
        yield text, replace(last, tokens=tokens, logprobs=score.logprobs, alternatives=tops)


Growing = tuple[Answer, Generating]


def copies(generation: Generation, count: int) -> list[Generation]:
    """`count` generations of the same prompt. Each gets its own seed, counting up from the requested one."""
    seeds = [None if generation.seed is None else generation.seed + n for n in range(count)]
    first, *others = seeds
    return [replace(generation, seed=first), *(replace(generation, id=uuid.uuid4().hex, seed=s) for s in others)]


class EventStream(Response):
    """Server-sent events, straight to ASGI; a client that disconnects cancels the generations. If the engine may
    refuse (`refusable`), headers wait for the first event; else they are sent at once, so that text is not delayed."""

    def __init__(self, answers: Sequence[Growing], include_usage: bool, *, refusable: bool = False) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._answers, self._include_usage, self._refusable = answers, include_usage, refusable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(wait_for_disconnect(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing

    async def _write(self, send: Send) -> None:
        begun = False

        async def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def put(body: bytes) -> None:
            await begin()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        try:
            if not self._refusable:
                await begin()
            if len(self._answers) == 1:
                await _put_one(self._answers[0], put, self._refusable)
            else:
                await _together([_put_one(answer, put, self._refusable) for answer in self._answers])
            if self._include_usage:
                await put(self._answers[0][0].usage_chunk([answer for answer, _ in self._answers]))
            usage = json.dumps(usage_of([answer for answer, _ in self._answers]))
            await put(b": usage " + usage.encode() + b"\n\ndata: [DONE]\n\n")
        except EngineError as error:
            if not begun:
                raise  # it can still be a status
            await put(error_event(str(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; None if the client leaves before, which ends the work."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(wait_for_disconnect(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    if working.done():
        return working.result()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    return None


async def whole(request: Request, answers: Sequence[Growing]) -> Response:
    """The answer in one piece; a client that leaves meanwhile ends the generations."""

    began, first = time.monotonic(), list[float]()

    async def gather(answer: Answer, generating: Generating) -> None:
        async for text, event in generating:
            if not first:
                first.append(time.monotonic() - began)
            answer.add(event, text)

    async def all_of_them() -> dict[str, Any]:
        await _together([gather(*answer) for answer in answers])
        return whole_body([answer for answer, _ in answers])

    body = await unless_left(request, all_of_them())
    if body is None:
        return Response(status_code=499)
    return JSONResponse(body, headers={FIRST_TOKEN: f"{first[0]:.6f}"} if first else None)


async def _put_one(growing: Growing, put: Callable[[bytes], Awaitable[None]], refusable: bool) -> None:
    answer, generating = growing
    opening, last_sent = answer.opening(), time.monotonic()
    if opening and not refusable:
        await put(opening)
        opening = b""
    async for text, event in generating:
        if opening:
            await put(opening)
            opening = b""
        answer.add(event, text)
        chunk = b""
        if text or event.finish or answer.with_logprobs or answer.with_token_ids:
            chunk = answer.chunk(text, event, event.finish)
        if chunk:
            await put(chunk)
            last_sent = time.monotonic()
        elif time.monotonic() - last_sent > QUIET_SECONDS:
            await put(STILL_HERE)
            last_sent = time.monotonic()


async def _together(work: Sequence[Awaitable[None]]) -> None:
    """The first fault ends all of them."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
