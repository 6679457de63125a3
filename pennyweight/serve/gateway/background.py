"""/v1/responses with `background: true`: nobody waits at the connection; the answer is looked up by its id, or
cancelled. Kept in memory as other responses are, so it ends with the gateway."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pennyweight.errors import PennyweightError
from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece
from pennyweight.serve.gateway.refusals import Refused, Shed
from pennyweight.serve.gateway.responses import Conversations, ResponseTranslation
from pennyweight.serve.gateway.streamed_response import Ending
from pennyweight.serve.gateway.translation import message_in

MAX_RUNNING = 1000  # of all tenants together
ENDED = "The server was stopped before the answer was whole: ask again."


class Background:
    """Tasks by tenant and id, beside the conversations in which their states are kept."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    def begin(
        self, ask: Ask, answer: Callable[[Ask], AsyncGenerator[Piece]], on_end: Callable[[Ending, Outcome], None]
    ) -> dict[str, Any]:
        """The response as it is now: queued. `on_end` is called once with how it ended."""
        if ask.body.get("stream") is True or ask.body.get("store") is False:
            raise Refused(
                400, "A response in the background is stored, and looked up instead of streamed.", "background"
            )
        if len(self._running) >= MAX_RUNNING:
            raise Shed(f"{MAX_RUNNING} responses run in the background already: come back later.", 10.0)
        asked = {name: value for name, value in ask.body.items() if name != "background"}
        plain = replace(ask, body=asked, raw=json.dumps(asked).encode())
        name = f"resp_{uuid.uuid4().hex}"
        queued = {**ResponseTranslation(asked).as_json(), "id": name, "background": True, "status": "queued"}
        key = (ask.tenant.name, name)
        self._conversations.keep(ask.tenant.name, queued, [])
        self._running[key] = task = asyncio.create_task(self._work(plain, name, queued, answer, on_end))
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return queued

    def cancel(self, tenant: str, name: str) -> dict[str, Any]:
        """Raises `Refused` for a response that does not run in the background."""
        found = self._conversations.response(tenant, name)
        if not found["background"]:
            raise Refused(400, "Only a response with background: true can be cancelled: close its connection instead.")
        task = self._running.get((tenant, name))
        if task is not None:
            task.cancel()
            found |= {"status": "cancelled"}
            self._conversations.keep(tenant, found, [])
        return found

    async def stop(self) -> None:
        """Those that still run fail by name."""
        for (tenant, name), task in list(self._running.items()):
            task.cancel()
            found = self._conversations.response(tenant, name)
            self._conversations.keep(tenant, _failed(found, ENDED), [])
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _work(
        self,
        ask: Ask,
        name: str,
        queued: Mapping[str, Any],
        answer: Callable[[Ask], AsyncGenerator[Piece]],
        on_end: Callable[[Ending, Outcome], None],
    ) -> None:
        tenant, outcome = ask.tenant.name, Outcome()
        ending: Ending = "abort"
        self._conversations.keep(tenant, {**queued, "status": "in_progress"}, [])
        status, body = 0, b""
        try:
            async with aclosing(answer(ask)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Head):
                        status = piece.status
                    elif isinstance(piece, Outcome):
                        outcome = piece
                    else:
                        body += piece
            if status == 200:
                self._conversations.rename(tenant, json.loads(body)["id"], name, background=True)
            else:
                self._conversations.keep(tenant, _failed(queued, message_in(body)), [])
            ending = "stop" if outcome.whole else "error"
        except PennyweightError as error:
            self._conversations.keep(tenant, _failed(queued, str(error)), [])
            ending = "shed" if isinstance(error, Shed) else "error"
        finally:
            on_end(ending, outcome)


def _failed(response: Mapping[str, Any], message: str) -> dict[str, Any]:
    return {**response, "status": "failed", "error": {"code": "server_error", "message": message}}
