"""A response that is passed on piece by piece, until it ends or its client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pennyweight.errors import PennyweightError
from pennyweight.openai_api.errors import error_body, error_event
from pennyweight.openai_api.sse import wait_for_disconnect
from pennyweight.serve.gateway.admission import Shed, Unavailable
from pennyweight.serve.gateway.flights import Piece
from pennyweight.serve.gateway.reading import Refused
from pennyweight.serve.gateway.relay import Head


class Passing(Response):
    """`pieces` begin with a head. `on_end` hears how it ended: stop, error, shed or abort."""

    def __init__(self, pieces: AsyncGenerator[Piece], extra: Mapping[str, str], on_end: Callable[[str], None]) -> None:
        super().__init__()
        self._pieces, self._extra, self._on_end = pieces, extra, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(wait_for_disconnect(receive))
        reason = "abort"
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                reason = writing.result()
        finally:
            leaving.cancel()
            writing.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await writing
            finally:
                self._on_end(reason)

    async def _write(self, send: Send) -> str:
        begun = False

        async def put(body: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            async with contextlib.aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    if isinstance(piece, bytes):
                        await put(piece)
                    else:
                        await send(self._start(piece))
                        begun = True
            await put(b"", more=False)
            return "stop"
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

    def _start(self, head: Head) -> dict[str, object]:
        headers = {"content-type": head.content_type, **self._extra}
        if head.content_type == "text/event-stream":
            headers["cache-control"] = "no-cache"
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": head.status, "headers": raw}


def refusal(error: Exception) -> Response:
    """Any error in OpenAI's shape."""
    headers = {}
    status, kind, param, code = 500, "server_error", None, None
    if isinstance(error, Shed):
        status, kind, code = 429, "rate_limit_error", "rate_limit_exceeded"
        headers["retry-after"] = str(error.retry_after)
    elif isinstance(error, Refused):
        status, param, code = error.status, error.param, error.code
        kind = "authentication_error" if status == 401 else "invalid_request_error"
    elif isinstance(error, Unavailable):
        status = 503
        headers["retry-after"] = "5"
    body = json.dumps(error_body(str(error), kind, param, code)).encode()
    return Response(body, status, headers, "application/json")
