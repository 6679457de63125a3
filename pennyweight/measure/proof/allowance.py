"""How much error one proof may use, when several looks, candidates and attempts share what the budget allows.

A false acceptance needs every part to pass, and a broken deployment breaks at least one of them, so parts do not share
(an intersection-union test, Berger 1982). Candidates and repeated attempts do, and so do the looks of one attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_LOOK = 64  # requests, or all where there are fewer
EARLY_SHARE = 0.1  # of the error, shared by all looks before the last


@dataclass(frozen=True)
class Allowance:
    """The error of attempt number `attempt` (from 1) on one held-out half. `confidence` is the budget's.

    Attempts get 1/2, 1/6, 1/12, ... of it: whatever their number, these add up to less than all of it.
    """

    confidence: float = 0.95
    attempt: int = 1

    @property
    def error(self) -> float:
        return (1 - self.confidence) / (self.attempt * (self.attempt + 1))

    def of_look(self, number: int, looks: int) -> float:
        """The error of look `number` (from 0): the last one gets most of it, because most proofs are decided there."""
        if looks == 1:
            return self.error
        early = self.error * EARLY_SHARE
        return self.error - early if number == looks - 1 else early / (looks - 1)


def look_sizes(count: int) -> list[int]:
    """How many requests each look has seen: each doubles the one before, the last has all."""
    sizes = [FIRST_LOOK]
    while sizes[-1] * 2 < count:
        sizes.append(sizes[-1] * 2)
    return [*[size for size in sizes if size < count], count]
