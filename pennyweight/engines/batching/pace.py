"""Does speculation pay at this number of rows? Decided by what steps with and without it have yielded lately."""

from __future__ import annotations

from dataclasses import dataclass, field

TRIED = 8  # steps of each kind before they are compared
EVERY, AGAIN = 64, 2  # steps after which the other kind is tried again, and for how many
WEIGHT = 0.1  # of the newest step in the running rate


@dataclass
class Rate:
    """Tokens a second of one kind of step."""

    steps: int = 0
    value: float = 0.0

    def take(self, tokens: int, seconds: float) -> None:
        newest = tokens / max(seconds, 1e-9)
        self.value = newest if not self.steps else (1 - WEIGHT) * self.value + WEIGHT * newest
        self.steps += 1


@dataclass
class Pace:
    """By the number of rows, rounded up to a power of two."""

    _rates: dict[tuple[int, bool], Rate] = field(default_factory=dict)
    _since: dict[int, int] = field(default_factory=dict)  # steps since the other kind was tried

    def speculates(self, rows: int) -> bool:
        size = (rows - 1).bit_length()
        with_it, without = self._rate(size, True), self._rate(size, False)
        if with_it.steps < TRIED or without.steps < TRIED:
            return with_it.steps <= without.steps
        better = with_it.value > without.value
        since = self._since[size] = self._since.get(size, 0) + 1
        if since > EVERY + AGAIN:
            self._since[size] = 0
        return not better if since > EVERY else better

    def take(self, rows: int, *, speculated: bool, tokens: int, seconds: float) -> None:
        """What a step has yielded."""
        self._rate((rows - 1).bit_length(), speculated).take(tokens, seconds)

    def _rate(self, size: int, speculated: bool) -> Rate:
        return self._rates.setdefault((size, speculated), Rate())
