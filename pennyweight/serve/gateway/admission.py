"""Admission control: which requests run now, which wait, and which are refused with a Retry-After.

A slot is one running request. Waiting requests are served by priority, and within one priority fairly: each tenant gets
an equal share of tokens, however many requests it sends (start-time fair queueing; Goyal, Vin and Cheng 1996,
doi.org/10.1145/248156.248171).
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pennyweight.serve.gateway.refusals import Shed, Unavailable
from pennyweight.serve.gateway.tenant import BATCH

SMOOTHING = 0.1  # of the time between two answers
PATIENCE = 60.0  # seconds that a request waits for an engine to come back


@dataclass(order=True)
class Ticket:
    """One request's place in the queue. `cost` is in tokens."""

    priority: int
    finish: float = field(init=False, default=0.0)
    number: int = field(init=False, default=0)
    tenant: str = field(compare=False)
    cost: int = field(compare=False)
    start: float = field(init=False, compare=False, default=0.0)
    turn: asyncio.Future[None] | None = field(init=False, compare=False, default=None)


class Admission:
    """Call `enter` before sending to an engine, `leave` after. `capacity` is called each time: replicas change."""

    def __init__(self, capacity: Callable[[], int], most_waiting: int, slo_seconds: float) -> None:
        self._capacity, self._most_waiting, self._slo = capacity, most_waiting, slo_seconds
        self._queue: list[Ticket] = []
        self._now = 0.0  # virtual time: tokens that an always busy tenant would have got
        self._last: dict[str, float] = {}  # tenant -> virtual end of its latest request
        self._numbers = 0
        self._interval: float | None = None  # seconds between two answers
        self._left = 0.0
        self.running = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def enter(self, ticket: Ticket) -> None:
        """Returns when it is this request's turn; raises `Shed` when it cannot be in time."""
        if not self._queue and self.running < self.room(ticket.priority):
            self._stamp(ticket)
            self._admit(ticket)
            return
        self._refuse(ticket)
        self._stamp(ticket)
        ticket.turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, ticket)
        self.dispatch()  # batch work that may not run yet does not block other requests
        try:
            await self._wait_for_turn(ticket, ticket.turn)
        except BaseException:
            if ticket.turn.done():  # it came in the same moment
                self.leave()
            else:
                self._queue.remove(ticket)
                heapq.heapify(self._queue)
            raise

    async def _wait_for_turn(self, ticket: Ticket, turn: asyncio.Future[None]) -> None:
        """Wait at most the promised time to first token, and at most `PATIENCE` while no engine runs."""
        if ticket.priority >= BATCH:
            await turn
            return
        step = self._slo or PATIENCE
        while not (await asyncio.wait({turn}, timeout=step))[0]:
            if self._slo:
                raise Shed(f"No engine was free within {self._slo:.1f} s: come back later.", self._wait(0))
            if not self._capacity():
                raise Unavailable("No engine is running at the moment: it is being started again; try later.")

    def leave(self) -> None:
        """A running request has ended, well or not."""
        now = time.monotonic()
        if self._left:
            passed = now - self._left
            before = passed if self._interval is None else self._interval
            self._interval = before + SMOOTHING * (passed - before)
        self.running -= 1
        self.dispatch()
        # Only the time until the next end is the engines' pace, and only if they are busy throughout.
        self._left = now if self._queue or self.running >= self._capacity() else 0.0

    def dispatch(self) -> None:
        """Start waiting requests while there is capacity: after a request ends, and when an engine is ready again."""
        while self._queue and self.running < self.room(self._queue[0].priority):
            ticket = heapq.heappop(self._queue)
            assert ticket.turn is not None
            self._admit(ticket)
            ticket.turn.set_result(None)
        if not self._queue and not self.running:
            self._last.clear()
            self._now = 0.0

    def release(self) -> None:
        """Release all waiting requests: this pool is closing, and its successor will answer them."""
        self._capacity = lambda: sys.maxsize
        self.dispatch()

    def room(self, priority: int) -> int:
        """How many requests may run when one of this priority starts: batch work leaves a quarter of the slots free."""
        capacity = self._capacity()
        return capacity if priority < BATCH else min(capacity, max(1, capacity * 3 // 4))

    def _stamp(self, ticket: Ticket) -> None:
        self._numbers += 1
        ticket.number = self._numbers
        ticket.start = max(self._now, self._last.get(ticket.tenant, 0.0))
        ticket.finish = self._last[ticket.tenant] = ticket.start + ticket.cost

    def _admit(self, ticket: Ticket) -> None:
        self._now = max(self._now, ticket.start)
        self.running += 1

    def _refuse(self, ticket: Ticket) -> None:
        if len(self._queue) >= self._most_waiting:
            ahead = len(self._queue)
            raise Shed(f"{ahead} requests are waiting already: come back later.", self._wait(ahead))
        if self._slo and ticket.priority < BATCH:
            expected = self._wait(sum(other.priority <= ticket.priority for other in self._queue))
            if expected > self._slo:
                raise Shed(
                    f"The first token would take about {expected:.1f} s, and the limit is {self._slo:.1f} s: come back "
                    "later.",
                    expected - self._slo,
                )

    def _wait(self, ahead: int) -> float:
        """Estimated seconds until a request with `ahead` requests before it starts."""
        return (ahead + 1) * (self._interval or 0.0)
