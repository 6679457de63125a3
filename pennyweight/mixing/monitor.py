"""Watches whether what was certified still holds while it is served: an e-process over the losses of requests that were
kept with the small model and also asked of the large one.

A gambler bets against "the mean loss is at most the limit", in a game in which he gains nothing on average as long as
that is true. His wealth may be looked at after every request: it ever reaches 1 / error with probability `error` at
most (Ville's inequality; Waudby-Smith & Ramdas 2024, doi.org/10.1093/jrsssb/qkad009). Several stakes are played at
once and their wealth is averaged, because it is not known how far the limit is missed. A part of the money is laid
aside for each later request, and played from there on: a gambler who had lost all in good times would see a drift late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

STAKES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # shares of the wealth that the least loss may take
NO_ROOM = 1e-9  # between the least loss and the limit: any greater loss is an alarm


@dataclass
class Monitor:
    """`limit` is the mean loss that may not be exceeded, `error` the probability of an alarm if it is not; no loss is
    below `least`. `wealth` is the logarithm of what is in play by each stake: kept in a file, it goes on after a
    restart."""

    limit: float
    error: float = 0.05
    least: float = -1.0
    wealth: list[float] = field(default_factory=list)
    seen: int = 0
    lost: float = 0.0
    alarmed: bool = False

    def take(self, loss: float) -> bool:
        """One more loss up to 1: large score - small score. True once the alarm was raised; it stays."""
        fresh = -math.log((self.seen + 1) * (self.seen + 2))  # for this request; all of them add up to 1
        before = self.wealth or [-math.inf] * len(STAKES)
        room = max(NO_ROOM, self.limit - self.least)
        grown = [math.log1p(share * (loss - self.limit) / room) for share in STAKES]
        self.wealth = [_log_sum(old, fresh) + more for old, more in zip(before, grown, strict=True)]
        self.seen += 1
        self.lost += loss
        self.alarmed = self.alarmed or self.log_wealth >= -math.log(self.error)
        return self.alarmed

    @property
    def log_wealth(self) -> float:
        """With what is laid aside."""
        aside = -math.log(self.seen + 1)
        return _log_sum(aside, *(one - math.log(len(STAKES)) for one in self.wealth))

    @property
    def mean_loss(self) -> float:
        """0 where nothing was seen."""
        return self.lost / self.seen if self.seen else 0.0


def _log_sum(*values: float) -> float:
    """Of exp(values), without what underflows."""
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))
