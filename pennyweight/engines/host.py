"""The thread that drives a runtime, and its counters. Requests come in from asyncio; events go back in one hop a step."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pennyweight.engines import Event, Generation, Runtime, Score

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)


class Metrics:
    """Prometheus figures of one worker, named as vLLM names its own, under our prefix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make = {"registry": self.registry}
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


class Host:
    """Owns the runtime: only its thread ever touches it."""

    def __init__(self, runtime: Runtime, loop: asyncio.AbstractEventLoop) -> None:
        self.metrics = Metrics()
        self.failure: str | None = None
        self._runtime = runtime
        self._loop = loop
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._running: dict[str, _Running] = {}  # belongs to the asyncio thread
        self._active: set[str] = set()  # belongs to the engine thread
        self._closing = False
        self._thread = threading.Thread(target=self._drive, name="engine", daemon=True)
        self._thread.start()

    # -- called from asyncio --

    def submit(self, generation: Generation, sink: Callable[[Event], None]) -> None:
        self._running[generation.id] = _Running(sink)
        self.metrics.running.inc()
        self.metrics.prompt_tokens.inc(len(generation.prompt))
        self._inbox.put(lambda: self._begin(generation))

    def cancel(self, generation_id: str) -> None:
        """Stop a generation whose client has left or has enough; its sink hears nothing more."""
        if self._running.pop(generation_id, None) is not None:
            self.metrics.running.dec()
            self.metrics.finished.labels("abort").inc()
            self._inbox.put(lambda: self._end(generation_id))

    async def score(self, tokens: Sequence[int]) -> Score:
        answer: asyncio.Future[Score] = self._loop.create_future()

        def work() -> None:
            try:
                score = self._runtime.score(tokens)
            except Exception as error:  # whatever the library raises is this request's answer
                self._loop.call_soon_threadsafe(_settle, answer, None, error)
            else:
                self._loop.call_soon_threadsafe(_settle, answer, score, None)

        self._inbox.put(work)
        return await answer

    def close(self) -> None:
        self._closing = True
        self._inbox.put(lambda: None)
        self._thread.join(timeout=10)

    # -- the engine thread --

    def _drive(self) -> None:
        while not self._closing:
            self._drain(wait=not self._active)
            if not self._active:
                continue
            try:
                events = self._runtime.step()
            except Exception as error:  # a step that failed fails every request in its batch
                self.failure = f"{type(error).__name__}: {error}"
                events = [Event(i, finish="error", error=self.failure) for i in self._active]
            self._active.difference_update(event.id for event in events if event.finish)
            if events:
                self._loop.call_soon_threadsafe(self._deliver, events)
        self._runtime.close()

    def _drain(self, *, wait: bool) -> None:
        if wait:
            self._inbox.get()()
        while True:
            try:
                self._inbox.get_nowait()()
            except queue.Empty:
                return

    def _begin(self, generation: Generation) -> None:
        try:
            self._runtime.submit(generation)
        except Exception as error:  # the library's refusal belongs to this request alone
            event = Event(generation.id, finish="error", error=f"{type(error).__name__}: {error}")
            self._loop.call_soon_threadsafe(self._deliver, [event])
        else:
            self._active.add(generation.id)

    def _end(self, generation_id: str) -> None:
        if generation_id in self._active:
            self._active.discard(generation_id)
            self._runtime.cancel(generation_id)

    # -- back in asyncio --

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            running = self._running.get(event.id)
            if running is None:
                continue  # cancelled meanwhile
            if event.tokens:
                self.metrics.generation_tokens.inc(len(event.tokens))
                if not running.begun:
                    running.begun = True
                    self.metrics.first_token.observe(time.perf_counter() - running.arrived)
            if event.finish:
                del self._running[event.id]
                self.metrics.running.dec()
                self.metrics.finished.labels(event.finish).inc()
                self.metrics.end_to_end.observe(time.perf_counter() - running.arrived)
            running.sink(event)


def _settle(answer: asyncio.Future[Score], score: Score | None, error: Exception | None) -> None:
    if answer.done():
        return  # the client left
    if error is not None:
        answer.set_exception(error)
    elif score is not None:
        answer.set_result(score)
