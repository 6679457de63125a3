"""The plain simulation: one event after the other, one step after the other, in objects. Slow, and easy to check."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence as Rows
from enum import IntEnum

import numpy as np

from pennyweight.simulate.cluster import AfterFailure, Router, SimulatedCluster
from pennyweight.simulate.outcome import Outcome
from pennyweight.simulate.plain_rank import Sequence
from pennyweight.simulate.plain_replica import Replica, State
from pennyweight.simulate.plain_router import PlainRouter, decode_router
from pennyweight.simulate.request_table import Floats, Integers, RequestTable
from pennyweight.simulate.ring import session_places
from pennyweight.simulate.scaling import rate_and_growth, ticks, wanted


class Phase(IntEnum):
    """The order of events at one time: a step that ends sees no request of that time, the next step sees them all."""

    KILL = 0
    READY = 1
    ARRIVAL = 2
    TICK = 3
    STEP_END = 4
    STEP_START = 5


OF_A_REPLICA = (Phase.READY, Phase.STEP_END, Phase.STEP_START)


def simulate_plainly(cluster: SimulatedCluster, table: RequestTable, *, router: Router, seed: int) -> Outcome:
    return _Run(cluster, table, router, seed).whole()


class _Run:
    def __init__(self, cluster: SimulatedCluster, table: RequestTable, router: Router, seed: int) -> None:
        self.cluster, self.table = cluster, table
        self.sequences = _sequences(table)
        self.replicas = _replicas(cluster, table)
        self.first_of_pool = [0, cluster.slots - cluster.pools[-1].replicas][: len(cluster.pools)]
        self.routers = [
            PlainRouter(kind, first=first, count=len(self.pool_slots(pool)), seed=seed)
            for pool, (first, kind) in enumerate(zip(self.first_of_pool, (router, decode_router(router)), strict=False))
        ]
        self.queues: list[deque[Sequence]] = [deque() for _ in cluster.pools]
        self.events: list[tuple[float, int, int, int]] = []
        self.done = self.next_closed = 0
        self.now = self.replica_seconds = 0.0
        self.tick = 0
        self.arrived = 0.0  # tokens, until now
        self.arrived_before: list[float] = []  # at each tick
        self.targets: list[int] = []

    def whole(self) -> Outcome:
        self._plan_all()
        while self.done < len(self.sequences) and self.now < math.inf:
            self.now, phase, number, version = heapq.heappop(self.events)
            if phase in OF_A_REPLICA and version != self.replicas[number].version:
                continue
            _HANDLERS[Phase(phase)](self, number)
        self.replica_seconds += sum(self.now - one.launched for one in self.replicas if one.state is not State.OFF)
        return outcome_of(self.sequences, replica_seconds=self.replica_seconds, seconds=self.now)

    def pool_slots(self, pool: int) -> range:
        ends = [*self.first_of_pool[1:], len(self.replicas)]
        return range(self.first_of_pool[pool], ends[pool])

    def _plan(self, time: float, phase: Phase, number: int) -> None:
        version = 0
        if phase in OF_A_REPLICA:
            version = self.replicas[number].version
            self.replicas[number].planned = True
        heapq.heappush(self.events, (time, phase, number, version))

    def _plan_all(self) -> None:
        for pool, first in zip(self.cluster.pools, self.first_of_pool, strict=True):
            for slot in range(first, first + pool.replicas):
                self.replicas[slot].state = State.READY
        for failure in self.cluster.failures:
            self._plan(failure.seconds, Phase.KILL, failure.replica)
        clients = self.table.clients
        self.next_closed = min(clients, len(self.sequences)) if clients else len(self.sequences)
        for one in self.sequences[: self.next_closed]:
            one.arrival = 0.0 if clients else one.arrival
            self._plan(one.arrival, Phase.ARRIVAL, one.number)
        if self.cluster.autoscaling:
            self._plan(self.cluster.autoscaling.interval, Phase.TICK, 0)

    # -- requests --

    def arrive(self, number: int) -> None:
        one = self.sequences[number]
        pool = 1 if one.transferred else 0
        self.arrived += 0 if pool else one.cost
        self.queues[pool].append(one)
        self._dispatch(pool)

    def _dispatch(self, pool: int) -> None:
        bound, queue = self.cluster.max_requests_per_replica, self.queues[pool]
        while queue:
            ready = [slot for slot in self.pool_slots(pool) if self.replicas[slot].state is State.READY]
            eligible = [slot for slot in ready if not bound or self.replicas[slot].requests < bound]
            if not eligible:
                return
            one = queue.popleft()
            memories = {slot: self.replicas[slot].memory for slot in eligible}
            slot = self.routers[pool].choose(
                eligible,
                {slot: self.replicas[slot].outstanding for slot in eligible},
                {slot: memory.knows(one.hashes) for slot, memory in memories.items()},
                number=one.number,
                session_place=one.session_place,
                beginning=memories[eligible[0]].beginning(one.hashes),
            )
            self._send(one, slot, pool)

    def _send(self, one: Sequence, slot: int, pool: int) -> None:
        replica = self.replicas[slot]
        one.replica = slot
        if pool == 0:
            one.cached = -1
        replica.accept(one)
        if not replica.planned:
            self._plan(self.now, Phase.STEP_START, slot)

    def _leave(self, one: Sequence) -> None:
        if one.generated < one.output and self.cluster.disaggregation:
            one.last_token, one.transferred = math.nan, True
            way = self.cluster.disaggregation.transfer_seconds_per_token * (one.total - 1)
            self._plan(self.now + way, Phase.ARRIVAL, one.number)
            return
        self.done += 1
        if self.next_closed < len(self.sequences):
            self.sequences[self.next_closed].arrival = self.now
            self._plan(self.now, Phase.ARRIVAL, self.next_closed)
            self.next_closed += 1

    # -- steps --

    def start_step(self, slot: int) -> None:
        replica = self.replicas[slot]
        replica.planned = False
        if not replica.idle:
            self._plan(self.now + replica.start_step(self.now), Phase.STEP_END, slot)

    def end_step(self, slot: int) -> None:
        replica = self.replicas[slot]
        for one in replica.end_step(self.now):
            self._leave(one)
        if replica.state is State.DRAINING and not replica.requests:
            self._switch_off(replica)
        else:
            self._plan(self.now, Phase.STEP_START, slot)
        self._dispatch(int(slot >= self.first_of_pool[-1] > 0))

    # -- failures and scaling --

    def kill(self, slot: int) -> None:
        replica = self.replicas[slot]
        if replica.state is State.OFF:
            return
        lost = sorted(replica.lose_all(), key=lambda one: one.number)
        for one in reversed(lost):
            self._restart(one)
            self.queues[0].appendleft(one)
        if replica.state is State.DRAINING:
            self._switch_off(replica)
        else:
            replica.state = State.STARTING
            self._plan(self.now + replica.start_seconds, Phase.READY, slot)
        self._dispatch(0)

    def _restart(self, one: Sequence) -> None:
        one.private = one.units = one.computed = one.scheduled = 0
        one.transferred = False
        if self.cluster.after_failure is AfterFailure.AGAIN or not one.generated:
            one.generated = 0
            one.admitted = one.first_token = math.nan

    def ready(self, slot: int) -> None:
        replica = self.replicas[slot]
        replica.planned = False
        replica.state = State.READY
        self._dispatch(int(slot >= self.first_of_pool[-1] > 0))

    def _switch_off(self, replica: Replica) -> None:
        replica.forget()
        replica.state = State.OFF
        self.replica_seconds += self.now - replica.launched

    def scale(self, _: int) -> None:
        policy = self.cluster.autoscaling
        assert policy is not None
        tokens = float(sum(one.outstanding for one in self.replicas) + sum(one.cost for one in self.queues[0]))
        rate, growth = self._arriving(ticks(self.cluster.pool.limits.start_seconds, policy.interval), policy.interval)
        running = sum(one.state in (State.STARTING, State.READY) for one in self.replicas)
        target = wanted(
            rate=rate,
            growth=growth,
            outstanding=tokens,
            waited=self._longest_wait(),
            running=running,
            starting=sum(one.state is State.STARTING for one in self.replicas),
            tokens_per_second=policy.tokens_per_second,
            tokens_per_replica=policy.tokens_per_replica,
            queue_seconds=policy.queue_seconds,
        )
        self.targets.append(min(max(target + policy.spare, policy.minimum), policy.maximum))
        self._set_replicas(running, max(self.targets[-ticks(policy.patience, policy.interval) :]))
        self.tick += 1
        self._plan((self.tick + 1) * policy.interval, Phase.TICK, 0)
        self._dispatch(0)

    def _arriving(self, lag: int, interval: float) -> tuple[float, float]:
        counts = [0.0, *self.arrived_before, self.arrived]
        self.arrived_before.append(self.arrived)
        first = min(lag, len(counts) - 1)
        second = min(2 * lag, len(counts) - 1) - first
        before, earlier = counts[-1 - first], counts[-1 - first - second]
        return rate_and_growth(self.arrived, before, earlier, (first, second), interval)

    def _longest_wait(self) -> float:
        heads = [rank.waiting[0] for one in self.replicas for rank in one.ranks if rank.waiting]
        heads += [queue[0] for queue in self.queues if queue]
        return max((self.now - one.arrival for one in heads if math.isnan(one.admitted)), default=0.0)

    def _set_replicas(self, running: int, target: int) -> None:
        for wanted_state in (State.DRAINING, State.OFF):
            for replica in self.replicas:
                if running < target and replica.state is wanted_state:
                    running += 1
                    self._start(replica)
        for replica in reversed(self.replicas):
            if running > target and replica.state in (State.STARTING, State.READY):
                running -= 1
                if replica.requests:
                    replica.state = State.DRAINING
                else:
                    self._switch_off(replica)

    def _start(self, replica: Replica) -> None:
        if replica.state is State.DRAINING:
            replica.state = State.READY
            return
        replica.state, replica.launched = State.STARTING, self.now
        self._plan(self.now + replica.start_seconds, Phase.READY, replica.slot)


_HANDLERS = {
    Phase.KILL: _Run.kill,
    Phase.READY: _Run.ready,
    Phase.ARRIVAL: _Run.arrive,
    Phase.TICK: _Run.scale,
    Phase.STEP_END: _Run.end_step,
    Phase.STEP_START: _Run.start_step,
}


def _sequences(table: RequestTable) -> list[Sequence]:
    places = session_places(table.session)
    starts = table.block_starts
    return [
        Sequence(
            number=number,
            arrival=float(table.arrival[number]),
            prompt=int(table.prompt_tokens[number]),
            output=int(table.output_tokens[number]),
            session_place=int(places[number]),
            hashes=[int(value) for value in table.block_hashes[starts[number] : starts[number + 1]]],
        )
        for number in range(len(table))
    ]


def _replicas(cluster: SimulatedCluster, table: RequestTable) -> list[Replica]:
    first = cluster.slots - sum(pool.replicas for pool in cluster.pools[1:])
    size = table.hashed_block_size
    made = []
    for slot in range(cluster.slots):
        prefills = slot < first
        pool = cluster.pools[0] if prefills else cluster.pools[1]
        shares = prefills and bool(size) and pool.limits.prefix_caching
        only_first = prefills and cluster.disaggregation is not None
        made.append(Replica(slot, pool, size, prefills_only=only_first, shares=shares))
    return made


def outcome_of(sequences: Rows[Sequence], *, replica_seconds: float, seconds: float) -> Outcome:
    def floats(name: str) -> Floats:
        return np.array([getattr(one, name) for one in sequences], dtype=np.float64)

    def integers(name: str) -> Integers:
        return np.array([getattr(one, name) for one in sequences], dtype=np.int64)

    return Outcome(
        arrival=floats("arrival"),
        admitted=floats("admitted"),
        first_token=floats("first_token"),
        last_token=floats("last_token"),
        replica=integers("replica"),
        preemptions=integers("preemptions"),
        cached=integers("cached"),
        replica_seconds=replica_seconds,
        seconds=seconds,
    )
