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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pennyweight.serve.gateway.refusals import Shed, Unavailable
from pennyweight.serve.gateway.tenant import BATCH

SMOOTHING = 0.2  # share of the latest answer in the learned pace
FORGET_SECONDS = 30.0  # after which a pace says nothing about now
NOT_RUNNING = "No engine is running at the moment: it is being started again; try later."
PATIENCE = 60.0  # seconds that a request waits for an engine to come back


@dataclass(order=True)
class Ticket:
    """One request's place in the queue. `cost` is in tokens, as the request declares them; `slots` are the sequences
    that it keeps an engine busy with."""

    priority: int
    finish: float = field(init=False, default=0.0)
    number: int = field(init=False, default=0)
    tenant: str = field(compare=False)
    cost: int = field(compare=False)
    slots: int = field(compare=False, default=1)
    waits: bool = field(compare=False, default=True)  # also for an engine to be started again
    start: float = field(init=False, compare=False, default=0.0)
    begun: float = field(init=False, compare=False, default=0.0)  # monotonic seconds
    turn: asyncio.Future[None] | None = field(init=False, compare=False, default=None)


class Admission:
    """Call `enter` before sending to an engine, `leave` after. `capacity` is called each time: replicas change."""

    def __init__(self, capacity: Callable[[], int], most_waiting: int, slo_seconds: float) -> None:
        self._capacity, self._most_waiting, self._slo = capacity, most_waiting, slo_seconds
        self._queue: list[Ticket] = []
        self._now = 0.0  # virtual time: tokens that an always busy tenant would have got
        self._last: dict[str, float] = {}  # tenant -> virtual end of its latest request
        self._numbers = 0
        self._pace: float | None = None  # seconds a declared token, learned from every answer
        self._learned = 0.0
        self.inside: list[Ticket] = []  # those that run

    @property
    def running(self) -> int:
        """Sequences, not requests."""
        return sum(ticket.slots for ticket in self.inside)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def enter(self, ticket: Ticket) -> None:
        """Returns when it is this request's turn; raises `Shed` when it cannot be in time."""
        if not self._queue and self._fits(ticket):
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
            if ticket in self.inside:  # its turn came in the same moment
                self.leave(ticket)
            elif not ticket.turn.done():
                self._queue = [other for other in self._queue if other is not ticket]
                heapq.heapify(self._queue)
            raise

    async def _wait_for_turn(self, ticket: Ticket, turn: asyncio.Future[None]) -> None:
        """Wait at most the promised time to first token, and at most `PATIENCE` while no engine runs."""
        if ticket.priority >= BATCH:
            await asyncio.shield(turn)
            return
        step = self._slo or PATIENCE
        while not (await asyncio.wait({turn}, timeout=step))[0]:
            if self._slo:
                raise Shed(f"No engine was free within {self._slo:.1f} s: come back later.", self._wait())
            if not self._capacity():
                raise Unavailable(NOT_RUNNING)
        turn.result()

    def leave(self, ticket: Ticket, used: int | None = None) -> None:
        """A running request has ended, well or not; `used` are the tokens that it really took, if they are known. Its
        tenant's share is corrected by them, both ways."""
        self.inside = [other for other in self.inside if other is not ticket]
        now = time.monotonic()
        if used is not None:
            if used:  # a refusal tells nothing of the engines' pace
                self._learn((now - ticket.begun) / max(1, ticket.cost), now)
            self._correct(ticket.tenant, used - ticket.cost)
        self.dispatch()

    def _learn(self, pace: float, now: float) -> None:
        before = pace if self._pace is None or now - self._learned > FORGET_SECONDS else self._pace
        self._pace, self._learned = before + SMOOTHING * (pace - before), now

    def _correct(self, tenant: str, tokens: int) -> None:
        """What waits of this tenant moves with it."""
        if tenant in self._last:
            self._last[tenant] += tokens
        for ticket in self._queue:
            if ticket.tenant == tenant:
                ticket.start, ticket.finish = ticket.start + tokens, ticket.finish + tokens
        heapq.heapify(self._queue)

    def dispatch(self) -> None:
        """Start waiting requests while there is capacity: after a request ends, and when an engine is ready again."""
        if not self._capacity():
            self._refuse_waiting(NOT_RUNNING, [ticket for ticket in self._queue if not ticket.waits])
        while self._queue and self._fits(self._queue[0]):
            ticket = heapq.heappop(self._queue)
            assert ticket.turn is not None
            self._admit(ticket)
            ticket.turn.set_result(None)
        if not self._queue and not self.inside:
            self._last.clear()
            self._now = 0.0

    def refuse_all(self, reason: str) -> None:
        """Whoever waits is refused: the gateway is ending."""
        self._refuse_waiting(reason, self._queue)

    def _refuse_waiting(self, reason: str, tickets: Sequence[Ticket]) -> None:
        refused = list(tickets)
        self._queue = [ticket for ticket in self._queue if not any(ticket is other for other in refused)]
        heapq.heapify(self._queue)
        for ticket in refused:
            assert ticket.turn is not None
            ticket.turn.set_exception(Unavailable(reason))

    def release(self) -> None:
        """Release all waiting requests: this pool is closing, and its successor will answer them."""
        self._capacity = lambda: sys.maxsize
        self.dispatch()

    def room(self, priority: int) -> int:
        """How many requests may run when one of this priority starts: batch work leaves a quarter of the slots free."""
        capacity = self._capacity()
        return capacity if priority < BATCH else min(capacity, max(1, capacity * 3 // 4))

    def _fits(self, ticket: Ticket) -> bool:
        """One that needs more slots than there are runs alone."""
        room, running = self.room(ticket.priority), self.running
        return room > 0 and (running + ticket.slots <= room or not running)

    def _stamp(self, ticket: Ticket) -> None:
        self._numbers += 1
        ticket.number = self._numbers
        ticket.start = max(self._now, self._last.get(ticket.tenant, 0.0))
        ticket.finish = self._last[ticket.tenant] = ticket.start + ticket.cost

    def _admit(self, ticket: Ticket) -> None:
        self._now = max(self._now, ticket.start)
        ticket.begun = time.monotonic()
        self.inside.append(ticket)

    def _refuse(self, ticket: Ticket) -> None:
        if len(self._queue) >= self._most_waiting:
            ahead = len(self._queue)
            raise Shed(f"{ahead} requests are waiting already: come back later.", self._wait(self._queue))
        if self._slo and ticket.priority < BATCH:
            expected = self._wait([other for other in self._queue if other.priority <= ticket.priority])
            if expected > self._slo:
                raise Shed(
                    f"The first token would take about {expected:.1f} s, and the limit is {self._slo:.1f} s: come back "
                    "later.",
                    expected - self._slo,
                )

    def _wait(self, ahead: Sequence[Ticket] = ()) -> float:
        """Estimated seconds until a request with these before it starts: each slot is free when what runs there is
        done, at the pace learned lately. 0 where none was."""
        now = time.monotonic()
        if self._pace is None or now - self._learned > FORGET_SECONDS:
            return 0.0
        free = [0.0] * max(0, self._capacity() - self.running)
        for ticket in self.inside:
            free += [max(0.0, ticket.begun + self._pace * ticket.cost - now)] * ticket.slots
        if not free:
            return 0.0
        heapq.heapify(free)
        for ticket in sorted(ahead):
            for _ in range(ticket.slots):
                heapq.heapreplace(free, free[0] + self._pace * ticket.cost)
        return free[0]
