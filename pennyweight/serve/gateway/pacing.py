"""Answers that refuse a request are paced: who sends broken requests without end waits longer for each refusal, so that
reading and checking them takes little from other clients. The first ones, and good requests, do not wait."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

AT_ONCE = 50  # refusals of one client that are answered without waiting
LONGEST_WAIT = 5.0  # seconds
MAX_CLIENTS = 10_000  # that are remembered


class Pacing:
    """ASGI middleware. `a_second` is how many 4xx answers a client gets a second once `AT_ONCE` are used up; 0: no
    pacing. A client is an address with its API key. 429 is not paced: it tells the client to wait itself."""

    def __init__(self, inner: ASGIApp, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner, self._a_second, self._clock = inner, a_second, clock
        self._due: OrderedDict[tuple[str, int], float] = OrderedDict()  # client -> when its latest refusal was due

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._a_second <= 0:
            await self._inner(scope, receive, send)
            return

        async def paced(message: Message) -> None:
            if message["type"] == "http.response.start" and 400 <= message["status"] < 500 and message["status"] != 429:
                headers = Headers(scope=scope)
                key = headers.get("authorization") or headers.get("x-api-key", "")
                await asyncio.sleep(self.wait((scope.get("client") or ("", 0))[0], key))
            await send(message)

        await self._inner(scope, receive, paced)

    def wait(self, address: str, key: str = "") -> float:
        """Seconds until this client's next refusal may be sent, which is counted with this call."""
        now, client = self._clock(), (address, hash(key))
        due = max(self._due.pop(client, 0.0), now - AT_ONCE / self._a_second) + 1 / self._a_second
        self._due[client] = min(due, now + LONGEST_WAIT)
        if len(self._due) > MAX_CLIENTS:
            self._due.popitem(last=False)
        return max(0.0, self._due[client] - now)
