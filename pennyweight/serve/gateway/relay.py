"""The innermost stage: sends a request to one of the pool's engines and streams the answer; retries elsewhere while
nothing was sent to the client."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from asyncio import timeout
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import aiohttp

from pennyweight.errors import EngineError
from pennyweight.openai_api.answers import FIRST_TOKEN
from pennyweight.openai_api.errors import error_event
from pennyweight.serve.gateway.admission import PATIENCE
from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece
from pennyweight.serve.gateway.quarantine import Quarantine
from pennyweight.serve.gateway.refusals import Unavailable
from pennyweight.serve.gateway.replicas import Replica, Replicas

LOG = logging.getLogger("pennyweight.gateway")
ATTEMPTS = 3
DONE = b"data: [DONE]"
ERROR = b'data: {"error"'
EMPTY = b'"content":""'
EVENTS = "text/event-stream"
LAST_BYTES = 4096  # of a stream, in which its end is looked for
OPENING = b'"delta":{"role":"assistant"'
USED = re.compile(rb'"completion_tokens": ?(\d+), ?"total_tokens": ?(\d+)|"total_tokens": ?(\d+)')
FINISHED = re.compile(rb'"finish_reason": ?"(\w+)"')
TOLD_USAGE = re.compile(rb": usage [^\n]*\n\n")  # our worker's, to the gateway alone
HEADERS = {"content-type": "application/json"}


class _Lost(Exception):
    """The engine went away, or broke, before the end."""


class Relay:
    """A stream that has begun and sends nothing for `stall_seconds` has failed, even if its engine serves others."""

    def __init__(self, session: aiohttp.ClientSession, stall_seconds: float) -> None:
        self._session, self._stall = session, stall_seconds
        self._quarantine = Quarantine(session)
        self.retries = 0

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        """An engine that is lost in the middle of a stream ends it with an error event."""
        avoid: set[int] = set()
        for _ in range(ATTEMPTS):
            self._quarantine.refuse(ask)
            begun, sent = asyncio.Event(), False
            async with self._quarantine.trial(ask, begun):
                replica = await _chosen(ask, avoid)
                replica.take(ask.cost, ask.blocks)
                try:
                    async with aclosing(self._answer(replica, ask)) as answer:
                        async for piece in answer:
                            begun.set()
                            sent = True
                            if isinstance(piece, Outcome) and piece.whole:
                                self._quarantine.acquit(ask)
                            yield piece
                    return
                except _Lost as lost:
                    reason = str(lost)
                    _replicas(ask).suspect(replica)
                    LOG.warning("engine %d lost a request: %s", replica.number, reason)
                finally:
                    replica.give_back(ask.cost)
                await self._quarantine.note(ask, replica)
            if sent:
                yield error_event("The engine was lost in the middle of the answer: ask again.")
                yield Outcome()
                return
            avoid.add(replica.number)
            self.retries += 1
        raise Unavailable(f"{ATTEMPTS} engines in a row gave no answer ({reason}): try later.")

    async def _answer(self, replica: Replica, ask: Ask) -> AsyncGenerator[Piece]:
        began = time.monotonic()
        try:
            raw = under_name(ask, replica.names)
            async with self._session.post(replica.base_url + ask.path, data=raw, headers=HEADERS) as answer:
                if answer.status >= 500:
                    raise _Lost(f"HTTP {answer.status}: {(await answer.text())[:200]}")
                head = Head(answer.status, answer.content_type)
                if answer.status == 200 and answer.content_type == EVENTS:  # whatever the request's `stream` says
                    async with aclosing(self._events(replica, answer, head)) as events:
                        async for piece in events:
                            yield piece
                    return
                data = await answer.read()
                replica.last_byte = time.monotonic()
                yield head
                yield data
                fine = answer.status == 200
                yield outcome_of(data, first_token(began, answer.headers, replica.last_byte) if fine else 0.0, fine)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _Lost(f"{type(error).__name__}: {error}") from None

    async def _events(self, replica: Replica, answer: aiohttp.ClientResponse, head: Head) -> AsyncGenerator[Piece]:
        """The role that a chat begins with is held back until more follows: it is no part of an answer yet."""
        held, last = b"", b""
        first, events = 0.0, 0
        while True:
            try:
                async with timeout(self._stall if self._stall and first else None):
                    data = await answer.content.readany()
            except TimeoutError:
                raise _Lost(f"its stream was silent for {self._stall:.0f} s") from None
            if not data:
                break
            replica.last_byte = time.monotonic()
            if not first:
                held += data
                telling = first_content_event(held)
                if telling is None:
                    continue
                if telling.startswith(ERROR):
                    raise _Lost(message_of(telling))
                data, first = held, replica.last_byte
                yield head
            events += data.count(b"\n\n")
            last = (last + data)[-LAST_BYTES:]
            yield TOLD_USAGE.sub(b"", data)
        *_, before, end = [b"", *last.strip().split(b"\n\n")]
        if before.startswith(ERROR) or end.startswith(ERROR):
            yield Outcome(first, events)  # the engine itself reported the error
            return
        if not first or not end.startswith(DONE):
            raise _Lost("the stream ended early")
        yield outcome_of(last, first, True, otherwise=events)


async def _chosen(ask: Ask, avoid: set[int]) -> Replica:
    try:
        return await _replicas(ask).choose(ask.blocks, avoid, PATIENCE if ask.waits else 0.0)
    except EngineError as error:
        raise Unavailable(str(error)) from None


def _replicas(ask: Ask) -> Replicas:
    """Those of the pool that took the request, as long as it has any."""
    pool = ask.pool
    while pool.successor is not None and not pool.replicas.all:
        pool = pool.successor
    return pool.replicas


def first_content_event(held: bytes) -> bytes | None:
    """The first whole event of a stream that is not a comment and has more than a role; None while there is none."""
    *events, _ = held.split(b"\n\n")
    telling = (event for event in events if not event.startswith(b":"))
    return next((event for event in telling if OPENING not in event or EMPTY not in event), None)


def outcome_of(told: bytes, first: float, whole: bool, otherwise: int = 0) -> Outcome:
    """With the tokens that a whole answer, or the end of a stream, reports."""
    finish = next((match[1].decode() for match in FINISHED.finditer(told)), "")
    found = list(USED.finditer(told))
    if not found:
        return Outcome(first, otherwise, whole, finish=finish)
    completion, total, prompt_only = found[-1].groups()
    return Outcome(first, int(completion or 0), whole, int(total or prompt_only), finish)


def first_token(began: float, headers: Mapping[str, str], ended: float) -> float:
    """When a whole answer's first token was there: its worker says how long that took."""
    try:
        return min(ended, began + float(headers[FIRST_TOKEN]))
    except (KeyError, ValueError):
        return ended


def under_name(ask: Ask, names: Sequence[str]) -> bytes:
    """The body as this engine takes it: after a reload to other names it still answers what was accepted before."""
    name = ask.body.get("model")
    if not name or name in names or not names:
        return ask.raw
    return json.dumps({**ask.body, "model": names[0]}).encode()


def message_of(event: bytes) -> str:
    try:
        return str(json.loads(event.split(b"\n")[0][6:])["error"]["message"])
    except (ValueError, KeyError, TypeError, IndexError):
        return event[:200].decode(errors="replace")
