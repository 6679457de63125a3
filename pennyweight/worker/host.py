"""The worker's side of an engine: counts requests and passes events to their sinks. Subclasses reach the engine
(driver_host.py, backend_host.py)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pennyweight.errors import EngineError
from pennyweight.generation import BEAT, Event, Generation, Pooling, Score
from pennyweight.worker.metrics import Metrics


@dataclass
class _Running:
    sink: Callable[[Event], None]
    arrived: float = field(default_factory=time.perf_counter)
    begun: bool = False
    ended: bool = False  # in the engine; the answer may have ended before, at a stop string


class Host(ABC):
    """Belongs to the event loop that `start` ran in. `on_death` is called once if the engine ends by itself."""

    def __init__(self, on_death: Callable[[], None]) -> None:
        self.metrics = Metrics()
        self.failure: str | None = None
        self._on_death = on_death
        self._running: dict[str, _Running] = {}

    @abstractmethod
    async def start(self) -> None:
        """Load the model and return when it is ready; raises `EngineError` with the reason if it fails."""

    def submit(self, generation: Generation, sink: Callable[[Event], None]) -> None:
        self._refuse_dead()
        self._running[generation.id] = _Running(sink)
        self.metrics.running.inc()
        self.metrics.prompt_tokens.inc(len(generation.prompt))
        self._begin(generation)

    def finish(self, generation_id: str, reason: str) -> None:
        """End a generation and record `reason` in the metrics; stop it in the engine if it still runs there. Its sink
        gets no more events."""
        running = self._running.pop(generation_id, None)
        if running is None:
            return
        self.metrics.running.dec()
        self.metrics.finished.labels(reason).inc()
        if reason != "abort":
            self.metrics.end_to_end.observe(time.perf_counter() - running.arrived)
        if not self.failure and not running.ended:
            self._end(generation_id)

    def cancel(self, generation_id: str) -> None:
        """The client has disconnected. Does nothing to a generation that has ended."""
        self.finish(generation_id, "abort")

    @abstractmethod
    async def score(self, tokens: Sequence[int], start: int) -> Score: ...

    @abstractmethod
    async def embed(self, tokens: Sequence[int], pooling: Pooling) -> list[float]:
        """One vector of length 1."""

    @abstractmethod
    async def kernels(self) -> list[str]: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def _begin(self, generation: Generation) -> None: ...

    @abstractmethod
    def _end(self, generation_id: str) -> None: ...

    def _refuse_dead(self) -> None:
        if self.failure:
            raise EngineError(self.failure)

    def _deliver(self, event: Event) -> None:
        if event.id == BEAT.id:
            self.metrics.steps.inc()
            return
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

    def _die(self, sentence: str) -> None:
        """The engine has ended: every running generation gets an error event."""
        self.failure = sentence
        for generation_id, running in list(self._running.items()):
            running.sink(Event(generation_id, finish="error", error=sentence))
        self._running.clear()
        self._on_death()
