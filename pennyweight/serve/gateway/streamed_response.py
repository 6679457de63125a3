"""A response that is passed on piece by piece, until it ends or its client leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Literal

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pennyweight.errors import PennyweightError
from pennyweight.openai_api.errors import error_event
from pennyweight.openai_api.sse import wait_for_disconnect
from pennyweight.serve.gateway.ask import Head, Outcome, Piece
from pennyweight.serve.gateway.refusals import Shed, refusal

Ending = Literal["stop", "error", "shed", "abort"]


class StreamedResponse(Response):
    """`pieces` begin with a head and end with an outcome. `on_end` is called once with how it ended."""

    def __init__(self, pieces: AsyncGenerator[Piece], on_end: Callable[[Ending, Outcome], None]) -> None:
        super().__init__()
        self._pieces, self._on_end = pieces, on_end
        self._outcome = Outcome()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(wait_for_disconnect(receive))
        ending: Ending = "abort"
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                ending = writing.result()
        finally:
            leaving.cancel()
            writing.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await writing
            finally:
                self._on_end(ending, self._outcome)

    async def _write(self, send: Send) -> Ending:
        begun = False

        async def put(body: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            async with contextlib.aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    if isinstance(piece, bytes):
                        await put(piece)
                    elif isinstance(piece, Outcome):
                        self._outcome = piece
                    else:
                        await send(_start(piece))
                        begun = True
            await put(b"", more=False)
            return "stop" if self._outcome.whole else "error"
        except PennyweightError as error:
            if begun:
                await put(error_event(str(error)), more=False)
            else:
                response = refusal(error)
                await send(
                    {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
                )
                await put(bytes(response.body), more=False)
            return "shed" if isinstance(error, Shed) else "error"


def _start(head: Head) -> dict[str, object]:
    headers = {"content-type": head.content_type, **head.headers}
    if head.content_type == "text/event-stream":
        headers["cache-control"] = "no-cache"
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": head.status, "headers": raw}
