"""Which of several models is the cheapest that loses no more than the limit, with as few requests as it takes.

Models are tried cheapest first, each on growing parts of the held-out half. One is accepted at the first look whose
upper bound is within the limit, and dropped at the first whose lower bound is above it. Looks and models share one
error, so that the whole race accepts a model that loses too much no more often than one test would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pennyweight.measure.proof.intervals import ratio_upper_bounds

Floats = NDArray[np.float64]
FIRST_LOOK, GROWTH = 64, 2.0
Ask = Callable[[int], tuple[Floats, Floats]]  # requests -> (candidate's scores, reference's scores) of the first ones


@dataclass(frozen=True)
class Look:
    """After this many requests, or sessions: what was lost of the reference's score, and both bounds on it."""

    requests: int
    lost: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Race:
    """A model's looks, and what became of it: `accepted`, `dropped` (it loses too much) or `open`."""

    name: str
    looks: tuple[Look, ...]
    outcome: str


def looks_of(requests: int) -> list[int]:
    """64, 128, … and all."""
    found, at = [], float(FIRST_LOOK)
    while at < requests:
        found.append(int(at))
        at *= GROWTH
    return [*found, requests]


def race(
    models: Sequence[tuple[str, Ask]], requests: int, limit: float, *, error: float, most: float = 1.0
) -> list[Race]:
    """Races of the models, which come cheapest first, up to the one that is accepted. `most` is what one unit can
    score: the requests of the largest session."""
    found = []
    for name, ask in models:
        found.append(_run(name, ask, requests, limit, error=error / max(1, len(models)), most=most))
        if found[-1].outcome == "accepted":
            break
    return found


def _run(name: str, ask: Ask, requests: int, limit: float, *, error: float, most: float) -> Race:
    planned = looks_of(requests)
    looks: list[Look] = []
    for count in planned:
        looks.append(_look(*ask(count), error=error / len(planned), most=most))
        if looks[-1].upper <= limit:
            return Race(name, tuple(looks), "accepted")
        if looks[-1].lower > limit:
            return Race(name, tuple(looks), "dropped")
    return Race(name, tuple(looks), "open")


def _look(scores: Floats, reference: Floats, *, error: float, most: float) -> Look:
    """Of independent requests, or of sessions' sums."""
    lost = (reference - scores)[:, None]
    if reference.sum() <= 1e-9:
        return Look(len(scores), 0.0, -np.inf, np.inf)
    upper = ratio_upper_bounds(lost, reference, bound=most, error=error)
    lower = ratio_upper_bounds(-lost, reference, bound=most, error=error)
    return Look(len(scores), float(lost.sum() / reference.sum()), -float(lower[0]), float(upper[0]))
