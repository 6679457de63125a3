"""A replica of the plain simulation: its ranks step together, one step at a time."""

from __future__ import annotations

from enum import IntEnum

from pennyweight.simulate.cluster import Pool
from pennyweight.simulate.kv_blocks import KvBlocks
from pennyweight.simulate.plain_rank import Rank, Sequence
from pennyweight.simulate.plain_router import Memory


class State(IntEnum):
    OFF = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class Replica:
    """`version` counts the events that were planned for it: an event of an older one is void."""

    def __init__(self, slot: int, pool: Pool, hashed_block_size: int, *, prefills_only: bool, shares: bool) -> None:
        limits = pool.limits
        self.slot, self.start_seconds = slot, limits.start_seconds
        self.state = State.OFF
        self.stepping = self.planned = False
        self.version = self.requests = self.outstanding = 0
        self.launched = 0.0
        self.memory = Memory(hashed_block_size)
        self._only_first = prefills_only
        self.ranks = [
            Rank(pool.price, limits, KvBlocks(limits, hashed_block_size), shares)
            for _ in range(limits.data_parallel_size)
        ]

    @property
    def idle(self) -> bool:
        return not any(rank.running or rank.waiting for rank in self.ranks)

    def accept(self, one: Sequence) -> None:
        self.requests += 1
        self.outstanding += one.cost
        self.memory.take(one.hashes)
        rank = min(self.ranks, key=lambda rank: 4 * len(rank.waiting) + len(rank.running))
        rank.waiting.append(one)

    def start_step(self, now: float) -> float:
        """The seconds of the step that begins now: those of the slowest rank."""
        return max(rank.schedule(now) for rank in self.ranks)

    def end_step(self, now: float) -> list[Sequence]:
        leaving = [one for rank in self.ranks for one in rank.end_step(now, only_first=self._only_first)]
        self.requests -= len(leaving)
        self.outstanding -= sum(one.cost for one in leaving)
        return leaving

    def lose_all(self) -> list[Sequence]:
        """Its process dies: the requests that it had."""
        lost = [one for rank in self.ranks for one in [*rank.running, *rank.waiting]]
        for rank in self.ranks:
            rank.running, rank.waiting = [], type(rank.waiting)()
        self.forget()
        return lost

    def forget(self) -> None:
        """Nothing is left of what it cached, or of what the router knew of it."""
        for rank in self.ranks:
            rank.blocks.clear()
        self.requests = self.outstanding = 0
        self.stepping = self.planned = False
        self.version += 1
        self.memory.clear()
