"""The worker's side of an engine: starts its driver process, sends it requests, hands events to whoever waits."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pennyweight.engines import Event, Generation, Score, driver
from pennyweight.errors import EngineError

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
CLOSE_SECONDS = 3.0


class Metrics:
    """Prometheus figures of one worker, named as vLLM names its own, under our prefix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.running = Gauge("pennyweight:num_requests_running", "Requests in the batch or waiting for it", **make)
        self.prompt_tokens = Counter("pennyweight:prompt_tokens", "Prompt tokens of accepted requests", **make)
        self.generation_tokens = Counter("pennyweight:generation_tokens", "Tokens generated", **make)
        self.finished = Counter("pennyweight:request_success", "Finished requests", ["finished_reason"], **make)
        self.first_token = Histogram(
            "pennyweight:time_to_first_token_seconds", "Arrival to first token", buckets=LATENCY_BUCKETS, **make
        )
        self.end_to_end = Histogram(
            "pennyweight:e2e_request_latency_seconds", "Arrival to last token", buckets=LATENCY_BUCKETS, **make
        )


@dataclass
class _Running:
    sink: Callable[[Event], None]
    arrived: float = field(default_factory=time.perf_counter)
    begun: bool = False
    ended: bool = False  # in the engine; the answer may have ended before, at a stop string


class Host:
    """Everything but `start` belongs to the asyncio thread. `on_death` is called once if the driver ends by itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_death: Callable[[], None] = lambda: None) -> None:
        self.metrics = Metrics()
        self.failure: str | None = None
        self._loop, self._on_death = loop, on_death
        self._running: dict[str, _Running] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._keys = count()

    def start(self, engine: str, settings: Mapping[str, Any], directory: str) -> None:
        """Load the model in a new process; returns when it is ready, raises the sentence that says why not."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, engine, dict(settings), directory)
        self._process = context.Process(target=driver.run, args=arguments, name=f"{engine}-driver", daemon=True)
        self._process.start()
        theirs.close()
        try:
            first = self._connection.recv()
        except EOFError:
            self._process.join(CLOSE_SECONDS)
            raise EngineError(f"{engine} ended while it loaded{_by_signal(self._process.exitcode)}.") from None
        if first[0] == "failed":
            raise EngineError(first[1])
        threading.Thread(target=self._listen, name="driver-messages", daemon=True).start()

    def submit(self, generation: Generation, sink: Callable[[Event], None]) -> None:
        if self.failure:
            raise EngineError(self.failure)
        self._running[generation.id] = _Running(sink)
        self.metrics.running.inc()
        self.metrics.prompt_tokens.inc(len(generation.prompt))
        self._connection.send(("submit", generation))

    def finish(self, generation_id: str, reason: str) -> None:
        """End a generation for the reason that its reader saw, in the engine too if it still runs there; its sink hears
        nothing more."""
        running = self._running.pop(generation_id, None)
        if running is None:
            return
        self.metrics.running.dec()
        self.metrics.finished.labels(reason).inc()
        if reason != "abort":
            self.metrics.end_to_end.observe(time.perf_counter() - running.arrived)
        if not self.failure and not running.ended:
            self._connection.send(("cancel", generation_id))

    def cancel(self, generation_id: str) -> None:
        """The client has left. Nothing happens to what has ended already."""
        self.finish(generation_id, "abort")

    async def score(self, tokens: Sequence[int], start: int) -> Score:
        found: Score = await self._ask("score", list(tokens), start)
        return found

    async def kernels(self) -> list[str]:
        found: list[str] = await self._ask("kernels")
        return found

    async def _ask(self, what: str, *more: Any) -> Any:
        if self.failure:
            raise EngineError(self.failure)
        key = next(self._keys)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._asked[key] = answer
        self._connection.send((what, key, *more))
        return await answer

    def close(self) -> None:
        if self._process.is_alive():
            with contextlib.suppress(OSError):  # it may end between the two lines
                self._connection.send(("close",))
            self._process.join(CLOSE_SECONDS)
            self._process.kill()  # a step can take longer than anybody wants to wait

    # -- messages from the driver --

    def _listen(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                self._loop.call_soon_threadsafe(self._take, message)
        except (EOFError, OSError):
            self._process.join(CLOSE_SECONDS)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._die)

    def _take(self, message: tuple[Any, ...]) -> None:
        if message[0] == "events":
            for event in message[1]:
                self._deliver(event)
            return
        _, key, value, fault = message
        answer = self._asked.pop(key)
        if not answer.done():  # else the client has left
            if fault is None:
                answer.set_result(value)
            else:
                answer.set_exception(EngineError(f"The engine could not tell: {fault}"))

    def _deliver(self, event: Event) -> None:
        running = self._running.get(event.id)
        if running is None:
            return  # cancelled meanwhile
        if event.tokens:
            self.metrics.generation_tokens.inc(len(event.tokens))
            if not running.begun:
                running.begun = True
                self.metrics.first_token.observe(time.perf_counter() - running.arrived)
        running.ended = event.finish is not None
        running.sink(event)

    def _die(self) -> None:
        """The driver is gone: everyone who waits hears of it."""
        self.failure = f"The engine's process ended{_by_signal(self._process.exitcode)}."
        for generation_id, running in list(self._running.items()):
            running.sink(Event(generation_id, finish="error", error=self.failure))
        self._running.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(EngineError(self.failure))
        self._on_death()


def _by_signal(code: int | None) -> str:
    if code is None or code >= 0:
        return f" with exit code {code}"
    return f", killed by signal {-code}" + (" (often: out of memory)" if code == -9 else "")
