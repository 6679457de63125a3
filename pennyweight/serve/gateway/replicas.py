"""The engine processes behind a gateway: started, chosen among, watched, started again, swapped for others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from pennyweight import engines
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineError, PennyweightError
from pennyweight.serve import process
from pennyweight.serve.gateway.settings import GatewaySettings
from pennyweight.serve.process import EngineProcess

GENERATED = re.compile(r"^\w+:generation_tokens_total(?:\{.*\})? (\S+)", re.MULTILINE)
LOG = logging.getLogger("pennyweight.gateway")
WATCH_SECONDS = 0.5
HEALTH_SECONDS, HEALTH_TIMEOUT, HEALTH_FAILURES = 2.0, 5.0, 3
FIRST_BACKOFF, LONGEST_BACKOFF, WELL_SECONDS = 0.5, 30.0, 60.0
AVOID_SECONDS = 2.0
QUIET_SECONDS = 5.0  # without a byte, after which an engine is asked whether it makes tokens
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
    generated: list[str] = field(default_factory=list)  # tokens, as its metrics told last
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
        self._backoff = 0.0

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
        Those to avoid are asked only when no other has come after a while: they may be ending."""
        began = time.monotonic()
        while True:
            ready, waited = self.ready, time.monotonic() - began
            others = [replica for replica in ready if replica.number not in avoid]
            if others or (ready and waited >= AVOID_SECONDS):
                return self._best(others or ready, blocks)
            if waited >= timeout:
                raise EngineError("No engine is running at the moment: it is being started again; try later.")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(timeout, AVOID_SECONDS if ready else timeout))

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
            if replica.state != "draining":
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
        made: list[Replica] = []
        try:
            slots = engines.make(deployment.engine, deployment.settings).max_num_seqs
            for _ in range(self._settings.replicas):
                made.append(self._launched(deployment, slots))
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
        if time.monotonic() - replica.ready_since > WELL_SECONDS:
            self._backoff = 0.0
        replica.state = "dead"
        self._tell()
        if not self._stopping:
            self._spawn(self._replace(replica))

    async def _replace(self, dead: Replica) -> None:
        """Until one is running in its place, with pauses that grow while engines do not live long."""
        await asyncio.to_thread(dead.process.stop)
        while dead in self.all:
            await asyncio.sleep(self._backoff)
            self._backoff = min(max(FIRST_BACKOFF, 2 * self._backoff), LONGEST_BACKOFF)
            deployment, fresh = self.deployment, None
            try:
                fresh = self._launched(deployment, dead.slots)
                await self._become_ready(fresh)
                if dead in self.all and deployment is self.deployment:
                    self.all[self.all.index(dead)] = fresh
                    fresh = None
                    self.restarts += 1
                    self._tell()
            except (PennyweightError, OSError) as error:
                LOG.warning("engine %d does not start again: %s", dead.number, error)
            finally:
                if fresh is not None:
                    fresh.state = "dead"
                    await asyncio.to_thread(fresh.process.stop)

    async def _drain(self, replica: Replica) -> None:
        deadline = time.monotonic() + self._settings.drain_seconds
        while replica.requests and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if replica in self.all:
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
                elif self._settings.stall_seconds and replica.requests and silent > self._settings.stall_seconds:
                    self._lose(replica, f"it was silent for {silent:.0f} s with {replica.requests} requests")
            if time.monotonic() - checked > HEALTH_SECONDS:
                await asyncio.gather(*(self._check(replica) for replica in self.ready))
                checked = time.monotonic()

    async def _check(self, replica: Replica) -> None:
        """Whether it answers; and where no byte has come for a while, because whole answers come at their end, whether
        it makes tokens."""
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT)
        try:
            async with self._session.get(f"{replica.base_url}/health", timeout=timeout) as answer:
                healthy = answer.status == 200
            quiet = min(QUIET_SECONDS, self._settings.stall_seconds / 3)
            if replica.requests and time.monotonic() - replica.last_byte > quiet:
                async with self._session.get(f"{replica.base_url}/metrics", timeout=timeout) as answer:
                    made = GENERATED.findall(await answer.text())
                if made and made != replica.generated:
                    replica.generated, replica.last_byte = made, time.monotonic()
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
