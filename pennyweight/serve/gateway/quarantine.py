"""Requests that were in an engine when it died. Any of them may have ended it, so each is asked again alone, and one
that was in a second death is refused from then on: a poisonous request costs two engines and not all of them. One that
an engine had alone when it was stopped for its silence is to blame, and is refused at once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import aiohttp

from pennyweight.serve.gateway.ask import Ask
from pennyweight.serve.gateway.pool import Pool
from pennyweight.serve.gateway.refusals import Refused, Unavailable
from pennyweight.serve.gateway.replicas import Replica, State

DEATHS = 2
REMEMBERED = 4096  # requests
TRIAL_SECONDS = 10.0  # after which the next suspect may follow: what kills, kills soon
NOTICE_SECONDS, TICK_SECONDS = 5.0, 0.05  # for a process that broke a connection to end, too


HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=1.0)


class Quarantine:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._deaths: OrderedDict[str, dict[int, int]] = OrderedDict()  # of a request's hash: engine -> deaths
        self._trials: WeakKeyDictionary[Pool, asyncio.Lock] = WeakKeyDictionary()

    def refuse(self, ask: Ask) -> None:
        """Raise `Refused` for a request that was in too many deaths."""
        if self.suspects(ask) and sum(self._deaths[_hash(ask)].values()) >= DEATHS:
            message = "Engines died, or fell silent, while they had this request: it is not asked again. Change it."
            raise Refused(400, message, code="request_quarantined")

    def suspects(self, ask: Ask) -> bool:
        return bool(self._deaths) and _hash(ask) in self._deaths  # usually nothing has died: a body is not hashed

    def acquit(self, ask: Ask) -> None:
        """It was answered."""
        if self.suspects(ask):
            del self._deaths[_hash(ask)]

    async def note(self, ask: Ask, replica: Replica) -> None:
        """It was lost on this engine: remembered unless the engine lives on."""
        if await self._lives(replica):
            return
        found = self._deaths.setdefault(_hash(ask), {})
        found[replica.number] = DEATHS if replica.stalled_alone else 1
        self._deaths.move_to_end(_hash(ask))
        while len(self._deaths) > REMEMBERED:
            self._deaths.popitem(last=False)

    async def _lives(self, replica: Replica) -> bool:
        """A worker whose engine has died says so until it ends itself."""
        for _ in range(round(NOTICE_SECONDS / TICK_SECONDS)):
            if replica.state is State.DEAD or not replica.process.alive:
                return False
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with self._session.get(f"{replica.base_url}/health", timeout=HEALTH_TIMEOUT) as answer:
                    if answer.status == 200:
                        return True
            await asyncio.sleep(TICK_SECONDS)
        return False

    @asynccontextmanager
    async def trial(self, ask: Ask, begun: asyncio.Event) -> AsyncGenerator[None]:
        """Suspects of a pool pass one at a time; the next follows when this one's answer has begun, has ended, or has
        left its engine alive for a while."""
        if not self.suspects(ask):
            yield
            return
        lock = self._trials.setdefault(ask.pool, asyncio.Lock())
        if lock.locked() and not ask.waits:  # the one before it may be waiting for an engine to be started again
            raise Unavailable("Other requests that were lost with an engine are asked again first: try later.")
        await lock.acquire()
        release = asyncio.create_task(_release(lock, begun))
        try:
            yield
        finally:
            begun.set()
            await release


async def _release(lock: asyncio.Lock, begun: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(begun.wait(), TRIAL_SECONDS)
    except TimeoutError:
        pass
    finally:
        lock.release()


def _hash(ask: Ask) -> str:
    """Of a request to one member: what ends a small model may be answered by a large one."""
    asked = f"{ask.pool.member}\0{ask.path}\0".encode() + ask.raw
    return hashlib.blake2b(asked, digest_size=16).hexdigest()
