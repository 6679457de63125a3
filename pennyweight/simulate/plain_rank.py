"""The scheduler of one rank, as vLLM V1's works, one step after the other: what the fast simulation is checked by."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from pennyweight.simulate.kv_blocks import KvBlocks
from pennyweight.step_price import ReplicaLimits, StepPrice


@dataclass(eq=False)
class Sequence:
    """A request under way. `total` tokens are known: the prompt, and those generated so far; the keys and values of
    `computed` of them are there."""

    number: int
    arrival: float
    prompt: int
    output: int
    session_place: int
    hashes: list[int]
    generated: int = 0
    computed: int = 0
    private: int = 0  # KV blocks of its own
    units: int = 0  # shared units that it holds: the first ones of `hashes`
    scheduled: int = 0  # tokens of this step
    transferred: bool = False  # its keys and values came from the prefill pool
    preemptions: int = 0
    cached: int = -1  # prompt tokens that were not computed at its first admission
    admitted: float = math.nan
    first_token: float = math.nan
    last_token: float = math.nan
    replica: int = -1

    @property
    def total(self) -> int:
        return self.prompt + self.generated

    @property
    def cost(self) -> int:
        """Tokens that the router counts for it."""
        return self.prompt + self.output

    @property
    def decodes(self) -> bool:
        return self.generated > 0 and self.total - self.computed == 1


@dataclass(eq=False)
class Rank:
    price: StepPrice
    limits: ReplicaLimits
    blocks: KvBlocks
    shares: bool  # prompts' hashed blocks are cached
    running: list[Sequence] = field(default_factory=list)
    waiting: deque[Sequence] = field(default_factory=deque)

    def schedule(self, now: float) -> float:
        """Plan a step; the seconds that it takes this rank."""
        budget, preempted = self._schedule_running()
        if not preempted:
            self._admit(now, budget)
        decoding = [one for one in self.running if one.scheduled and one.decodes]
        reading = [one for one in self.running if one.scheduled and not one.decodes]
        return self.price.seconds(
            sequences=len(decoding),
            context_tokens=sum(one.total for one in decoding),
            prompt_tokens=sum(one.scheduled for one in reading),
            prompt_pairs=sum(_pairs(one.computed, one.scheduled) for one in reading),
        )

    def _schedule_running(self) -> tuple[int, bool]:
        budget, preempted, place = self.limits.max_num_batched_tokens, False, 0
        for one in self.running:
            one.scheduled = 0
        while place < len(self.running) and budget > 0:
            one = self.running[place]
            new = min(one.total - one.computed, budget)
            need = self._needed(one, one.computed + new)
            while need > self.blocks.available:
                victim = self.running.pop()
                self._preempt(victim)
                preempted = True
                if victim is one:
                    return budget, True
            self._take(one, new, need)
            budget -= new
            place += 1
        return budget, preempted

    def _admit(self, now: float, budget: int) -> None:
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            one = self.waiting[0]
            hits = self.blocks.cached_units(self._hashes(one), one.total) if not one.transferred else 0
            start = one.total - 1 if one.transferred else hits * self.blocks.unit_tokens
            new = min(one.total - start, budget)
            held = one.hashes[:hits]
            need = self.blocks.blocks_for(start + new) - hits * self.blocks.unit_blocks
            if need > self.blocks.available - self.blocks.unused_among(held) * self.blocks.unit_blocks:
                return
            self.waiting.popleft()
            for number in held:
                self.blocks.hold(number)
            one.computed, one.units, one.transferred = start, hits, False
            if one.cached < 0:
                one.cached = hits * self.blocks.unit_tokens
            if math.isnan(one.admitted):
                one.admitted = now
            self._take(one, new, need)
            self.running.append(one)
            budget -= new

    def _hashes(self, one: Sequence) -> list[int]:
        return one.hashes if self.shares else []

    def _needed(self, one: Sequence, tokens: int) -> int:
        return self.blocks.blocks_for(tokens) - one.units * self.blocks.unit_blocks - one.private

    def _take(self, one: Sequence, new: int, need: int) -> None:
        """Blocks for the step's tokens; hashed blocks that the step completes are shared from now on."""
        self.blocks.allocate(need)
        one.private += need
        one.scheduled = new
        hashes = self._hashes(one)
        while one.units < len(hashes) and (one.units + 1) * self.blocks.unit_tokens <= one.computed + new:
            self.blocks.share(hashes[one.units])
            one.private -= self.blocks.unit_blocks
            one.units += 1

    def _preempt(self, one: Sequence) -> None:
        self.give_back(one)
        one.preemptions += 1
        self.waiting.appendleft(one)

    def give_back(self, one: Sequence) -> None:
        self.blocks.release(one.private, one.hashes[: one.units])
        one.private = one.units = one.computed = one.scheduled = 0

    def end_step(self, now: float, *, only_first: bool) -> list[Sequence]:
        """The sequences that leave: they have all their tokens, or with `only_first` their first one."""
        leaving = []
        for one in self.running:
            one.computed += one.scheduled
            if one.scheduled and one.computed == one.total:
                one.generated += 1
                if math.isnan(one.first_token):
                    one.first_token = now
                if one.generated == one.output or only_first:
                    one.last_token = now
                    leaving.append(one)
        for one in leaving:
            self.give_back(one)
        gone = set(map(id, leaving))
        self.running = [one for one in self.running if id(one) not in gone]
        return leaving


def _pairs(earlier: int, new: int) -> float:
    """Pairs of one of `new` tokens with itself or a token before it, `earlier` ones included."""
    return new * earlier + new * (new + 1) / 2
