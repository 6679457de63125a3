"""The engine processes behind a gateway: started, chosen among, watched, started again, swapped for others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from pennyweight import engines
from pennyweight.deployment import Deployment
from pennyweight.engines import process
from pennyweight.engines.process import EngineProcess
from pennyweight.errors import EngineError, PennyweightError
from pennyweight.serve.gateway.settings import GatewaySettings

LOG = logging.getLogger("pennyweight.gateway")
WATCH_SECONDS = 0.5
HEALTH_SECONDS, HEALTH_TIMEOUT, HEALTH_FAILURES = 2.0, 5.0, 3
FIRST_BACKOFF, LONGEST_BACKOFF, WELL_SECONDS = 0.5, 30.0, 60.0
BEGINNINGS = 4096  # blocks of prompts that a replica is remembered for
AFFINITY = 0.25  # of its busiest share that a replica may be busier, for a prompt whose beginning it knows
SPARE = 8  # of so many slots, one request more is sent, so that a slot never waits for the network


@dataclass(eq=False)
class Replica:
    """`outstanding` counts tokens that were asked for and not answered."""

    number: int
    process: EngineProcess
    slots: int
    state: str = "starting"  # ready, draining, dead
    outstanding: int = 0
    requests: int = 0
    last_byte: float = field(default_factory=time.monotonic)
    ready_since: float = 0.0
    unhealthy: int = 0
    _known: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def base_url(self) -> str:
        return self.process.base_url

    def take(self, cost: int, blocks: Iterable[int]) -> None:
        if not self.requests:
            self.last_byte = time.monotonic()
        self.requests += 1
        self.outstanding += cost
        for block in blocks:
            self._known[block] = None
            self._known.move_to_end(block)
        while len(self._known) > BEGINNINGS:
            self._known.popitem(last=False)

    def give_back(self, cost: int) -> None:
        self.requests -= 1
        self.outstanding -= cost

    def knows(self, blocks: Sequence[int]) -> int:
        """How many of a prompt's first blocks it has seen."""
        return next((n for n, block in enumerate(blocks) if block not in self._known), len(blocks))


class Replicas:
    """`on_change` is called when there are more or fewer that can be asked."""

    def __init__(self, deployment: Deployment, settings: GatewaySettings, logs: Path) -> None:
        self.deployment = deployment
        self.all: list[Replica] = []
        self.restarts = 0
        self.on_change: Callable[[], None] = lambda: None
        self._settings, self._logs = settings, logs
        self._numbers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = False

    @property
    def ready(self) -> list[Replica]:
        return [replica for replica in self.all if replica.state == "ready"]

    @property
    def capacity(self) -> int:
        return sum(replica.slots + max(1, replica.slots // SPARE) for replica in self.ready)

    async def start(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.all = await self._started(self.deployment)
        self._spawn(self._watch())

    async def choose(self, blocks: Sequence[int], avoid: Collection[int], timeout: float) -> Replica:
        """The least busy one, or one that knows the prompt's beginning and is hardly busier; waits while none is ready.
        Those to avoid are asked only when no other is there."""
        deadline = time.monotonic() + timeout
        while True:
            ready = self.ready
            if ready:
                return self._best([r for r in ready if r.number not in avoid] or ready, blocks)
            left = deadline - time.monotonic()
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, left))
            except TimeoutError:
                raise EngineError("No engine is running at the moment: it is being started again; try later.") from None

    def _best(self, ready: Sequence[Replica], blocks: Sequence[int]) -> Replica:
        least = min(ready, key=lambda replica: (replica.outstanding, replica.number))
        if len(ready) == 1 or not blocks:
            return least
        busiest = max(replica.outstanding for replica in ready)
        knowing = max(ready, key=lambda replica: (replica.knows(blocks), -replica.outstanding))
        close = knowing.outstanding <= least.outstanding + AFFINITY * busiest
        return knowing if knowing.knows(blocks) > least.knows(blocks) and close else least

    def suspect(self, replica: Replica) -> None:
        """A request was lost on it: if its process is gone, it is not asked again."""
        if replica.state == "ready" and not replica.process.alive:
            self._lose(replica, "its process ended")

    async def swap(self, deployment: Deployment) -> None:
        """New engines first, then the old ones drain: no request is dropped. If the new do not start, the old stay."""
        fresh = await self._started(deployment)
        old, self.all, self.deployment = self.all, [*fresh, *self.all], deployment
        for replica in old:
            replica.state = "draining"
            self._spawn(self._drain(replica))
        self._tell()

    async def stop(self) -> None:
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(replica.process.stop) for replica in self.all))

    # -- life and death --

    async def _started(self, deployment: Deployment) -> list[Replica]:
        slots = engines.make(deployment.engine, deployment.settings).max_num_seqs
        made = [self._launched(deployment, slots) for _ in range(self._settings.replicas)]
        try:
            await asyncio.gather(*(self._become_ready(replica) for replica in made))
        except BaseException:
            await asyncio.gather(*(asyncio.to_thread(replica.process.stop) for replica in made))
            raise
        return made

    def _launched(self, deployment: Deployment, slots: int) -> Replica:
        self._numbers += 1
        log = self._logs / f"engine-{self._numbers}.log"
        return Replica(self._numbers, process.start(deployment, log), slots)

    async def _become_ready(self, replica: Replica) -> None:
        await asyncio.to_thread(replica.process.wait_healthy, self._settings.start_seconds)
        replica.state, replica.ready_since = "ready", time.monotonic()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self.on_change()

    def _lose(self, replica: Replica, why: str) -> None:
        LOG.warning("engine %d is lost: %s", replica.number, why)
        was_well = time.monotonic() - replica.ready_since > WELL_SECONDS
        replica.state = "dead"
        self._tell()
        if not self._stopping:
            self._spawn(self._replace(replica, FIRST_BACKOFF if was_well else 2 * FIRST_BACKOFF))

    async def _replace(self, dead: Replica, backoff: float) -> None:
        await asyncio.to_thread(dead.process.stop)
        while dead in self.all:
            fresh = None
            try:
                fresh = self._launched(self.deployment, dead.slots)
                await self._become_ready(fresh)
            except PennyweightError as error:
                LOG.warning("engine %d does not start again: %s", dead.number, error)
                if fresh is not None:
                    await asyncio.to_thread(fresh.process.stop)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, LONGEST_BACKOFF)
                continue
            except asyncio.CancelledError:
                if fresh is not None:
                    await asyncio.to_thread(fresh.process.stop)
                raise
            self.restarts += 1
            self.all[self.all.index(dead)] = fresh
            self._tell()

    async def _drain(self, replica: Replica) -> None:
        deadline = time.monotonic() + self._settings.drain_seconds
        while replica.requests and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self.all.remove(replica)
        await asyncio.to_thread(replica.process.stop)

    async def _watch(self) -> None:
        checked = 0.0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for replica in self.ready:
                silent = time.monotonic() - replica.last_byte
                if not replica.process.alive:
                    self._lose(replica, "its process ended")
                elif replica.requests and silent > self._settings.stall_seconds:
                    self._lose(replica, f"it was silent for {silent:.0f} s with {replica.requests} requests")
            if time.monotonic() - checked > HEALTH_SECONDS:
                await asyncio.gather(*(self._check(replica) for replica in self.ready))
                checked = time.monotonic()

    async def _check(self, replica: Replica) -> None:
        try:
            timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT)
            async with self._session.get(f"{replica.base_url}/health", timeout=timeout) as answer:
                healthy = answer.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            healthy = False
        replica.unhealthy = 0 if healthy else replica.unhealthy + 1
        if replica.unhealthy >= HEALTH_FAILURES and replica.state == "ready":
            self._lose(replica, "it does not answer /health")

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                LOG.error("a task of the gateway failed", exc_info=error)
