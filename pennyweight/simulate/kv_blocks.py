"""KV blocks of one rank in the plain simulation: private ones of running sequences, and units that prompts share."""

from __future__ import annotations

from collections import OrderedDict

from pennyweight.step_price import ReplicaLimits


class KvBlocks:
    """A unit is one hashed block of a trace, `unit_blocks` KV blocks. A unit is cached from when a step computes it; it
    can be evicted when no running sequence holds it, the one that has been unused longest first."""

    def __init__(self, limits: ReplicaLimits, hashed_block_size: int) -> None:
        self.block_size = limits.block_size
        self.unit_tokens = hashed_block_size
        self.unit_blocks = hashed_block_size // limits.block_size
        self._total = limits.num_kv_blocks
        self.clear()

    def clear(self) -> None:
        self.free = self._total
        self._holders: dict[int, int] = {}  # of each cached unit: the running sequences that hold it
        self._unused: OrderedDict[int, None] = OrderedDict()  # units without holders, the longest unused first

    @property
    def available(self) -> int:
        return self.free + len(self._unused) * self.unit_blocks

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def cached_units(self, hashes: list[int], tokens: int) -> int:
        """How many of the first units need not be computed: at least the last of `tokens` always is."""
        found = 0
        while found < len(hashes) and (found + 1) * self.unit_tokens < tokens and hashes[found] in self._holders:
            found += 1
        return found

    def unused_among(self, hashes: list[int]) -> int:
        return sum(number in self._unused for number in hashes)

    def hold(self, number: int) -> None:
        self._holders[number] += 1
        self._unused.pop(number, None)

    def allocate(self, blocks: int) -> None:
        while self.free < blocks:
            number, _ = self._unused.popitem(last=False)
            del self._holders[number]
            self.free += self.unit_blocks
        self.free -= blocks

    def share(self, number: int) -> None:
        """Private blocks become a unit. Where it is cached already, it is held, and the private blocks are freed."""
        if number in self._holders:
            self.hold(number)
            self.free += self.unit_blocks
        else:
            self._holders[number] = 1

    def release(self, private: int, hashes: list[int]) -> None:
        """A sequence gives back its private blocks and its units, the last first, so that it is evicted first."""
        self.free += private
        for number in reversed(hashes):
            self._holders[number] -= 1
            if not self._holders[number]:
                self._unused[number] = None
