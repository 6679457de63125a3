"""The engine processes behind a gateway: started, chosen among, watched, started again, swapped for others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import aiohttp

from pennyweight import balancing, engines
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineError, PennyweightError
from pennyweight.serve.gateway.admission import NOT_RUNNING, Admission
from pennyweight.serve.gateway.settings import GatewaySettings
from pennyweight.serve.launchers import local
from pennyweight.serve.process import ServerProcess

PROGRESS = re.compile(r"^\w+:(?:generation_tokens|engine_steps)_total(?:\{.*\})? (\S+)", re.MULTILINE)
LOG = logging.getLogger("pennyweight.gateway")
WATCH_SECONDS = 0.5
HEALTH_SECONDS, HEALTH_TIMEOUT, HEALTH_FAILURES = 2.0, 5.0, 3
FIRST_BACKOFF, LONGEST_BACKOFF, WELL_SECONDS = 0.5, 30.0, 60.0
AVOID_SECONDS = 2.0
QUIET_SECONDS = 5.0  # without a byte, after which an engine's metrics are checked for new tokens
BEGINNINGS = 4096  # blocks of prompts that a replica is remembered for
SPARE = 8  # one more request is sent per this many slots, so that no slot waits for the network


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(eq=False)
class Replica:
    """`outstanding` is the estimated token count of its unanswered requests."""

    number: int
    process: ServerProcess
    slots: int
    state: State = State.STARTING
    outstanding: int = 0
    requests: int = 0
    last_byte: float = field(default_factory=time.monotonic)
    ready_since: float = 0.0
    unhealthy: int = 0
    generated: list[str] = field(default_factory=list)  # token counters of its latest metrics
    stalled_alone: bool = False  # it was stopped for its silence, and had one request
    names: Sequence[str] = ()  # that its engine answers to
    _known: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def base_url(self) -> str:
        return self.process.base_url

    @property
    def memory_bytes(self) -> int:
        """Resident now, its children included."""
        return self.process.usage()[0]

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
    """`on_change` is called when the number of ready replicas changes."""

    def __init__(
        self,
        deployment: Deployment,
        names: Sequence[str],
        settings: GatewaySettings,
        *,
        count: int,
        logs: Path,
        numbers: Iterator[int],
    ) -> None:
        self.deployment = deployment
        self.all: list[Replica] = []
        self.restarts = 0
        self.last_loss = ""  # a sentence, of the last one that was lost
        self.on_change: Callable[[], None] = lambda: None
        self._names, self._settings, self._count, self._logs, self._numbers = names, settings, count, logs, numbers
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._backoff = 0.0

    @property
    def ready(self) -> list[Replica]:
        """Replicas that are ready. While a successor takes over, they still answer the requests accepted here."""
        wanted = State.DRAINING if self._stopping else State.READY
        return [replica for replica in self.all if replica.state is wanted]

    @property
    def capacity(self) -> int:
        """Sequences that may be at the engines at once; no spare ones where a time to first token is promised, which an
        engine's own queue would break."""
        spare = 0 if self._settings.slo_ttft_ms else 1
        return sum(replica.slots + spare * max(1, replica.slots // SPARE) for replica in self.ready)

    async def start(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.all = await self._started()
        self._spawn(self._watch())

    async def choose(self, blocks: Sequence[int], avoid: Collection[int], timeout: float) -> Replica:
        """The least busy one, or one that has the prompt's prefix cached and is hardly busier; waits while none is
        ready. Replicas in `avoid` are used only if no other gets ready for a while: they may be ending."""
        began = time.monotonic()
        while True:
            ready, waited = self.ready, time.monotonic() - began
            others = [replica for replica in ready if replica.number not in avoid]
            if others or (ready and waited >= AVOID_SECONDS):
                return self._best(others or ready, blocks)
            if waited >= timeout or self.gone:
                raise EngineError(self._nothing_runs())
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(timeout, AVOID_SECONDS if ready else timeout))

    def _best(self, ready: Sequence[Replica], blocks: Sequence[int]) -> Replica:
        place = balancing.choose([r.outstanding for r in ready], [r.knows(blocks) for r in ready])
        return ready[place]

    @property
    def gone(self) -> bool:
        """None runs, and none will: they are not started again here."""
        alive = (State.STARTING, State.READY, State.DRAINING)
        return not self._settings.restart and bool(self.all) and not any(one.state in alive for one in self.all)

    def _nothing_runs(self) -> str:
        if self._settings.restart:
            return NOT_RUNNING
        return f"No engine is running any more. {self.last_loss}"

    def suspect(self, replica: Replica) -> None:
        """A request failed on it: if its process has ended, it is marked as lost."""
        if replica.state is State.READY and not replica.process.alive:
            self._lose(replica, "its process ended")

    async def card(self) -> dict[str, object]:
        """The model as its engine describes it."""
        async with self._session.get(f"{self.ready[0].base_url}/v1/models") as answer:
            found: dict[str, object] = (await answer.json())["data"][0]
            return found

    async def kernels(self) -> list[str]:
        """The matrix-multiplication kernels that the engine reports."""
        return list(await asyncio.to_thread(self.ready[0].process.kernels)) if self.ready else []

    def retire(self, queue: Admission) -> None:
        """A successor has taken over: stop the engines once accepted requests are answered, or after a timeout."""
        self._stopping = True
        for replica in self.all:
            replica.state = State.DRAINING if replica.state is State.READY else replica.state
        self._spawn(self._drain(queue))

    async def stop(self) -> None:
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(replica.process.stop) for replica in self.all))

    # -- life and death --

    async def _started(self) -> list[Replica]:
        made: list[Replica] = []
        try:
            slots = engines.make(self.deployment.engine, self.deployment.settings).max_num_seqs
            for _ in range(self._count):
                made.append(self._launched(slots))
            await asyncio.gather(*(self._become_ready(replica) for replica in made))
        except BaseException:
            await asyncio.gather(*(asyncio.to_thread(replica.process.stop) for replica in made))
            raise
        return made

    def _launched(self, slots: int) -> Replica:
        number = next(self._numbers)
        log = self._logs / f"engine-{number}.log"
        return Replica(number, local.start_engine(self.deployment, log, names=self._names), slots, names=self._names)

    async def _become_ready(self, replica: Replica) -> None:
        await asyncio.to_thread(replica.process.wait_healthy, self._settings.start_seconds)
        replica.state, replica.ready_since = State.READY, time.monotonic()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self.on_change()

    def _lose(self, replica: Replica, why: str) -> None:
        said = replica.process.log_tail() or "nothing"
        self.last_loss = (
            replica.process.exit_message()
            if not replica.process.alive
            else f"{self.deployment.engine}: {why} (its log: {said})."
        )
        LOG.warning("engine %d is lost: %s", replica.number, self.last_loss)
        if time.monotonic() - replica.ready_since > WELL_SECONDS:
            self._backoff = 0.0
        replica.state = State.DEAD
        self._notify()
        if self._settings.restart and not self._stopping:
            self._spawn(self._replace(replica))

    async def _replace(self, dead: Replica) -> None:
        """Retry until a replacement is running, with a growing back-off while engines end soon after start."""
        await asyncio.to_thread(dead.process.stop)
        while dead in self.all and not self._stopping:
            await asyncio.sleep(self._backoff)
            self._backoff = min(max(FIRST_BACKOFF, 2 * self._backoff), LONGEST_BACKOFF)
            fresh = None
            try:
                fresh = self._launched(dead.slots)
                await self._become_ready(fresh)
                if dead in self.all and not self._stopping:
                    self.all[self.all.index(dead)] = fresh
                    fresh = None
                    self.restarts += 1
                    self._notify()
            except (PennyweightError, OSError) as error:
                LOG.warning("engine %d does not start again: %s", dead.number, error)
            finally:
                if fresh is not None:
                    fresh.state = State.DEAD
                    await asyncio.to_thread(fresh.process.stop)

    async def _drain(self, queue: Admission) -> None:
        left, deadline = -1, 0.0
        while queue.running or queue.waiting:
            if (now := queue.waiting + queue.running) != left:  # as long as it goes on, all accepted work is done here
                left, deadline = now, time.monotonic() + self._settings.drain_seconds
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        ended, self.all = self.all, []
        self._notify()
        queue.release()  # requests still waiting go to the successor
        await asyncio.gather(*(asyncio.to_thread(replica.process.stop) for replica in ended))

    async def _watch(self) -> None:
        checked = 0.0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for replica in self.ready:
                silent = time.monotonic() - replica.last_byte
                if not replica.process.alive:
                    self._lose(replica, "its process ended")
                elif self._settings.stall_seconds and replica.requests and silent > self._settings.stall_seconds:
                    replica.stalled_alone = replica.requests == 1
                    self._lose(replica, f"it was silent for {silent:.0f} s with {replica.requests} requests")
            if time.monotonic() - checked > HEALTH_SECONDS:
                await asyncio.gather(*(self._check(replica) for replica in self.ready))
                checked = time.monotonic()

    async def _check(self, replica: Replica) -> None:
        """Check that it answers /health; and if it sent no byte for a while, which is normal without streaming, that it
        still makes tokens, or at least steps."""
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT)
        try:
            async with self._session.get(f"{replica.base_url}/health", timeout=timeout) as answer:
                healthy = answer.status == 200
            quiet = min(QUIET_SECONDS, self._settings.stall_seconds / 3)
            if replica.requests and time.monotonic() - replica.last_byte > quiet:
                async with self._session.get(f"{replica.base_url}/metrics", timeout=timeout) as answer:
                    made = PROGRESS.findall(await answer.text())
                if made and made != replica.generated:
                    replica.generated, replica.last_byte = made, time.monotonic()
        except (aiohttp.ClientError, OSError, TimeoutError):
            healthy = False
        replica.unhealthy = 0 if healthy else replica.unhealthy + 1
        if replica.unhealthy >= HEALTH_FAILURES and replica.state is State.READY:
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
