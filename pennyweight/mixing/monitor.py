"""Watches whether what was certified still holds while it is served: an e-process over the losses of requests that were
kept with the small model and also asked of the large one.

A gambler bets against "the mean loss is at most the limit", in a game in which he gains nothing on average as long as
that is true. His wealth may be looked at after every request: it ever reaches 1 / error with probability `error` at
most (Ville's inequality; Waudby-Smith & Ramdas 2024, doi.org/10.1093/jrsssb/qkad009). Several stakes are played at
once and their wealth is averaged, because it is not known how far the limit is missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

STAKES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # shares of the wealth that a loss of -1 may take


@dataclass
class Monitor:
    """`limit` is the mean loss that may not be exceeded, `error` the probability of an alarm although it is not.
    `wealth` is the logarithm of each stake's: kept in a file, it goes on after a restart."""

    limit: float
    error: float = 0.05
    wealth: list[float] = field(default_factory=lambda: [0.0] * len(STAKES))
    seen: int = 0
    lost: float = 0.0
    alarmed: bool = False

    def take(self, loss: float) -> bool:
        """One more loss in -1..1: large score - small score. True once the alarm was raised; it stays."""
        self.seen += 1
        self.lost += loss
        for number, share in enumerate(STAKES):
            self.wealth[number] += math.log1p(share * (loss - self.limit) / (1 + self.limit))
        self.alarmed = self.alarmed or self.log_wealth >= -math.log(self.error)
        return self.alarmed

    @property
    def log_wealth(self) -> float:
        return _log_mean(self.wealth)

    @property
    def mean_loss(self) -> float:
        """0 where nothing was seen."""
        return self.lost / self.seen if self.seen else 0.0


def _log_mean(values: Sequence[float]) -> float:
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values) / len(values))
