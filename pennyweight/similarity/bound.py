"""From which score on answers may be served, so that at most a share of the hits is wrong: thresholds are tested on
labelled would-be hits, strictest first, until one fails (fixed sequence testing: Maurer, Hothorn & Lehmacher 1995),
each by the exact bound of Clopper & Pearson (1934)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = tuple(round(1 / (1 + math.exp(-step / 4)), 6) for step in range(24, -1, -1))  # 0.9975 … 0.5
GROWTH = 2.0  # labels from one look to the next


@dataclass(frozen=True)
class Threshold:
    """Hits from `score` on are served: of `labelled` ones `wrong` were, and at most `bound` are."""

    score: float
    labelled: int
    wrong: int
    bound: float


def threshold_for(scores: Sequence[float], wrong: Sequence[bool], limit: float, *, error: float) -> Threshold | None:
    """The loosest of `THRESHOLDS` at which at most `limit` of the hits are wrong, with confidence 1 - error; None where
    no threshold holds. The first that is tested is the strictest with labels enough to hold at all, which the scores
    alone decide."""
    over = np.asarray(scores, np.float64)[None, :] >= np.array(THRESHOLDS)[:, None]
    counts, faults = over.sum(1), (over & np.asarray(wrong, bool)[None, :]).sum(1)
    found, enough = None, least_labels(limit, error)
    for score, count, fault in zip(THRESHOLDS, counts.tolist(), faults.tolist(), strict=True):
        if count < enough:
            continue
        bound = upper_bound(fault, count, error)
        if bound > limit:
            break
        found = Threshold(score, count, fault, bound)
    return found


def upper_bound(wrong: int, count: int, error: float) -> float:
    from scipy import stats

    return 1.0 if wrong >= count else float(stats.beta.ppf(1 - error, wrong + 1, count - wrong))


def least_labels(limit: float, error: float) -> int:
    """Labelled hits without one that is wrong, before a threshold can hold: 299 for 1% at 95% confidence."""
    return math.ceil(math.log(error) / math.log1p(-limit))


def error_of_look(number: int, error: float) -> float:
    """Looks 1, 2, … share the error, however many follow: 6 / π² / number² each."""
    return error * 6 / (math.pi * number) ** 2


def labels_at_look(number: int, limit: float, error: float) -> int:
    """How many labels look `number` of an epoch waits for, at this error: twice as many each time."""
    return math.ceil(least_labels(limit, error) * GROWTH ** (number - 1))
