"""From which score on answers may be served, so that at most a share of the hits is wrong: thresholds are tested on
labelled would-be hits, strictest first, until one fails (fixed sequence testing: Maurer, Hothorn & Lehmacher 1995),
each by the exact bound of Clopper & Pearson (1934).

Labels are not independent: a question that is asked again in the same words gets the same two answers, and where one
wording of a meaning is wrong the others often are. So the bound is taken at the number of independent labels that are
worth as much (Korn & Graubard, 1998, Survey Methodology 24(2)): equal words count by Kish's effective size, and groups
whose wrong labels come together by the design effect that is measured. What no label shows, such as one large group
that has not come yet, no bound on labels covers: that is for the monitor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = tuple(round(1 / (1 + math.exp(-step / 4)), 6) for step in range(24, -1, -1))  # 0.9975 … 0.5
GROWTH = 2.0  # labels from one look to the next


@dataclass(frozen=True)
class Threshold:
    """Hits from `score` on are served: of `labelled` ones `wrong` were, and at most `bound` are."""

    score: float
    labelled: int
    wrong: int
    bound: float


@dataclass(frozen=True)
class Judged:
    """A labelled would-be hit. Labels of equal `words` are repeats of one; those of one `answer` may be wrong
    together. Empty: it is related to no other."""

    score: float
    wrong: bool
    words: str = ""
    answer: str = ""


def threshold_for(labels: Sequence[Judged], limit: float, *, error: float) -> Threshold | None:
    """The loosest of `THRESHOLDS` at which at most `limit` of the hits are wrong, with confidence 1 - error; None where
    no threshold holds. The first that is tested is the strictest with labels enough to hold at all, which scores and
    words alone decide."""
    found, enough = None, least_labels(limit, error)
    for score in THRESHOLDS:
        over = [label for label in labels if label.score >= score]
        if _distinct(over) < enough:
            continue
        bound = bound_on_wrong(over, error)
        if bound > limit:
            break
        found = Threshold(score, len(over), sum(label.wrong for label in over), bound)
    return found


def bound_on_wrong(labels: Sequence[Judged], error: float) -> float:
    """Upper bound on the share that is wrong, with confidence 1 - error."""
    if not labels:
        return 1.0
    wrong = np.array([label.wrong for label in labels], np.float64)
    count = _distinct(labels)
    for groups in (_places([label.words for label in labels]), _places([label.answer for label in labels])):
        count = min(count, len(labels) / _design_effect(wrong, groups))
    return upper_bound(float(wrong.mean()) * count, count, error)


def _distinct(labels: Sequence[Judged]) -> float:
    """Kish's effective size: as many labels of different words say as much."""
    if not labels:
        return 0.0
    sizes = np.bincount(_places([label.words for label in labels]))
    return float(len(labels) ** 2 / (sizes**2).sum())


def _design_effect(wrong: NDArray[np.float64], groups: NDArray[np.intp]) -> float:
    """How many times larger the variance of the share is than that of independent labels; 1 where nothing shows."""
    share, sizes = wrong.mean(), np.bincount(groups)
    if not 0 < share < 1 or len(sizes) < 2:
        return 1.0
    apart = np.bincount(groups, weights=wrong) - share * sizes
    variance = (apart**2).sum() * len(sizes) / (len(sizes) - 1)
    return max(1.0, float(variance / (len(wrong) * share * (1 - share))))


def _places(names: Sequence[str]) -> NDArray[np.intp]:
    """Each name's group; what has no name is a group of its own."""
    groups: dict[str | int, int] = {}
    return np.array([groups.setdefault(name or number, len(groups)) for number, name in enumerate(names)], np.intp)


def upper_bound(wrong: float, count: float, error: float) -> float:
    """Clopper & Pearson's, which holds for shares of labels, too."""
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
