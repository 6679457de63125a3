"""A response that is passed on piece by piece, until it ends or its client leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Literal

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pennyweight.errors import PennyweightError
from pennyweight.openai_api.errors import error_event
from pennyweight.openai_api.sse import wait_for_disconnect
from pennyweight.serve.gateway.ask import Head, Outcome, Piece
from pennyweight.serve.gateway.refusals import Shed, Unavailable, refusal

EVENTS, LINES = "text/event-stream", "application/x-ndjson"
QUIET_SECONDS = 15.0
STILL_HERE = b": waiting\n\n"
Ending = Literal["stop", "error", "shed", "abort"]


class StreamedResponse(Response):
    """`pieces` begin with a head and end with an outcome. `on_end` is called once with how it ended. For a client that
    waits for events (`streams`), headers and a comment go ahead when nothing has come for `QUIET_SECONDS`: proxies and
    clients give up on a silent connection. What fails after that is an event."""

    def __init__(
        self, pieces: AsyncGenerator[Piece], on_end: Callable[[Ending, Outcome], None], *, streams: bool = False
    ) -> None:
        super().__init__()
        self._pieces, self._on_end, self._streams = pieces, on_end, streams
        self._outcome = Outcome()
        self._writing: asyncio.Task[Ending] | None = None
        self._reason = ""

    def end(self, reason: str) -> None:
        """End it now: a stream that has begun with an event that says why, another with a 503."""
        self._reason = reason
        if self._writing is not None:
            self._writing.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        writing = self._writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(wait_for_disconnect(receive))
        ending: Ending = "abort"
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                ending = writing.result()
            elif self._outcome.whole:  # its client left when it had all
                ending = "stop"
        finally:
            leaving.cancel()
            writing.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await writing
            finally:
                self._on_end(ending, self._outcome)

    async def _write(self, send: Send) -> Ending:
        begun, prefix, suffix = False, b"", b""

        async def put(body: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        async def waiting() -> None:
            nonlocal begun
            if not begun:
                begun = True
                await send(_start(Head(200, EVENTS)))
            await put(STILL_HERE)

        try:
            async with contextlib.aclosing(self._pieces) as pieces:
                head = await self._first(pieces, waiting)
                assert isinstance(head, Head)
                if not begun:
                    begun = True
                    await send(_start(head))
                elif head.status != 200:
                    prefix, suffix = b"data: ", b"\n\n"
                async for piece in pieces:
                    if isinstance(piece, bytes):
                        await put(prefix + piece + suffix)
                    elif isinstance(piece, Outcome):
                        self._outcome = piece
            await put(b"", more=False)
            return "stop" if self._outcome.whole else "error"
        except (PennyweightError, asyncio.CancelledError) as cause:
            if isinstance(cause, asyncio.CancelledError) and not self._reason:
                raise
            error = Unavailable(self._reason) if isinstance(cause, asyncio.CancelledError) else cause
            if begun:
                await put(error_event(str(error)), more=False)
            else:
                response = refusal(error)
                await send(
                    {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
                )
                await put(bytes(response.body), more=False)
            return "shed" if isinstance(error, Shed) else "error"

    async def _first(self, pieces: AsyncGenerator[Piece], waiting: Callable[[], Awaitable[None]]) -> Piece:
        """The first piece; `waiting` is called whenever `QUIET_SECONDS` have passed without one."""
        if not self._streams:
            return await anext(pieces)
        coming: asyncio.Future[Piece] = asyncio.ensure_future(anext(pieces))
        try:
            while not (await asyncio.wait({coming}, timeout=QUIET_SECONDS))[0]:
                await waiting()
            return coming.result()
        finally:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await coming


def _start(head: Head) -> dict[str, object]:
    headers = {"content-type": head.content_type, **head.headers}
    if head.content_type in (EVENTS, LINES):
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": head.status, "headers": raw}
