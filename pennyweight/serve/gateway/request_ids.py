"""Every answer carries `x-request-id`: the client's own, or one that is made here; logs and support speak of it."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAME = b"x-request-id"
SANE = re.compile(r"[\w.:/-]{1,128}")


class RequestIds:
    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = (given if SANE.fullmatch(given) else f"req_{uuid.uuid4().hex}").encode()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (NAME, request_id)]}
            await send(message)

        await self._inner(scope, receive, sending)
