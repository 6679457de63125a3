"""The router of the plain simulation: every rule as its definition has it, with a look at every replica."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pennyweight import balancing
from pennyweight.simulate.cluster import Router
from pennyweight.simulate.random_numbers import drawn
from pennyweight.simulate.ring import ring

PROMPT_TOKENS = 4096  # of a prompt's beginning that the gateway remembers
REPLICA_TOKENS = 262_144  # of beginnings that it remembers of one replica


def decode_router(router: Router) -> Router:
    """Nothing of a prompt is kept in a decode pool, so knowing it is worth nothing there."""
    return Router.LEAST_OUTSTANDING if router in (Router.GATEWAY, Router.PREFIX_AFFINITY) else router


class Memory:
    """The blocks that a replica was sent: each is known until 262,144 tokens of blocks have been sent after it."""

    def __init__(self, block_size: int) -> None:
        self._first = PROMPT_TOKENS // block_size if block_size else 0
        self._kept = REPLICA_TOKENS // block_size if block_size else 0
        self.clear()

    def clear(self) -> None:
        self._sent = 0
        self._sent_at: dict[int, int] = {}

    def take(self, hashes: Sequence[int]) -> None:
        first = hashes[: self._first]
        self._sent += len(first)
        for number in first:
            self._sent_at[number] = self._sent

    def knows(self, hashes: Sequence[int]) -> int:
        """How many of a prompt's first blocks it was sent."""
        count = 0
        for number in hashes[: self._first]:
            if number not in self._sent_at or self._sent - self._sent_at[number] > self._kept:
                break
            count += 1
        return count

    def beginning(self, hashes: Sequence[int]) -> int:
        """The blocks of a prompt that count."""
        return min(len(hashes), self._first)


class PlainRouter:
    """Chooses among the replicas `first` to `first + count - 1`."""

    def __init__(self, kind: Router, *, first: int, count: int, seed: int) -> None:
        self._kind, self._first, self._seed = kind, first, seed
        self._last = -1
        self._places: NDArray[np.int64]
        self._places, self._owners = ring(count, seed)

    def choose(
        self,
        eligible: Sequence[int],
        outstanding: Mapping[int, int],
        known: Mapping[int, int],
        *,
        number: int,
        session_place: int,
        beginning: int,
    ) -> int:
        """Of the eligible replicas, which are in order; `known` blocks of the prompt's `beginning`."""
        loads = [outstanding[slot] for slot in eligible]
        least = eligible[loads.index(min(loads))]
        if self._kind is Router.GATEWAY:
            return eligible[balancing.choose(loads, [known[slot] for slot in eligible])]
        if self._kind is Router.ROUND_ROBIN:
            self._last = next((slot for slot in eligible if slot > self._last), eligible[0])
            return self._last
        if self._kind is Router.POWER_OF_TWO:
            return self._of_two(eligible, outstanding, number)
        if self._kind is Router.PREFIX_AFFINITY:
            knowing = max(eligible, key=lambda slot: (known[slot], -outstanding[slot]))
            return knowing if 2 * known[knowing] >= max(1, beginning) else least
        if self._kind is Router.SESSION_AFFINITY:
            return self._owner(set(eligible), session_place)
        return least

    def _of_two(self, eligible: Sequence[int], outstanding: Mapping[int, int], number: int) -> int:
        count = len(eligible)
        one = drawn(self._seed, number, 0) % count
        if count == 1:
            return eligible[one]
        other = drawn(self._seed, number, 1) % (count - 1)
        other += other >= one
        return eligible[other] if outstanding[eligible[other]] < outstanding[eligible[one]] else eligible[one]

    def _owner(self, eligible: set[int], place: int) -> int:
        start = bisect.bisect_left(self._places, place)
        size = len(self._places)
        owners = (int(self._owners[(start + step) % size]) + self._first for step in range(size))
        return next(owner for owner in owners if owner in eligible)
