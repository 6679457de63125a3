"""Bounds that hold for few and for badly behaved losses: what every part of a proof is judged by.

A mean's bound is Gaffke's (Gaffke 2005, "Three test statistics for a nonparametric one-sided hypothesis on the mean of
a nonnegative variable"; Learned-Miller & Thomas 2019, arxiv.org/abs/1905.06208): a Bayesian bootstrap to which one
worst case is added, which is why a few equal values still have a width. That it keeps its error is checked by
`make bench-proof`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000  # of one batch
BEYOND = 50  # draws that should lie beyond a bound
MOST_BATCHES = 50
MOST_VALUES = 1 << 21  # held at a time: 16 MiB
Floats = NDArray[np.float64]
UNKNOWN = 1e300  # a ratio that nothing bounds: quantiles between infinite values are no numbers


def _draws(count: int, error: float) -> Iterator[Floats]:
    """Pieces (draws, count) of unnormalised Dirichlet weights, so many that some dozens lie beyond the bound, and each
    so small that thousands of units need no more memory than dozens. They are the same for every call, so that a bound
    can be computed again."""
    rows = max(1, MOST_VALUES // count)
    for seed in range(max(1, min(MOST_BATCHES, math.ceil(BEYOND / error / DRAWS)))):
        generator = np.random.default_rng(seed)
        for begun in range(0, DRAWS, rows):
            yield generator.standard_exponential((min(rows, DRAWS - begun), count))


def ratio_interval(totals: Floats, sizes: Floats, *, bound: float, error: float) -> tuple[float, tuple[float, float]]:
    """Σ totals / Σ sizes over independent units, and its interval, each side of which is wrong with probability
    `error` at most.

    totals  (units,) loss of each unit, such as nats of a session; within ± bound
    sizes   (units,) weight of each unit, such as its tokens
    """
    if not len(totals):
        return float("nan"), (float("-inf"), float("inf"))
    lows, highs = [], []
    columns = np.zeros((len(totals) + 1, 3))  # one product reads the draws once
    columns[:-1, 0], columns[:-1, 1], columns[-1, 2] = totals, sizes, bound
    for weights in _draws(len(columns), error):
        weighed, size, worst = (weights @ columns).T
        lows.append(_ratio(weighed - worst, size, -UNKNOWN))
        highs.append(_ratio(weighed + worst, size, UNKNOWN))
    low, high = np.quantile(np.concatenate(lows), error), np.quantile(np.concatenate(highs), 1 - error)
    return float(totals.sum() / sizes.sum()), (float(low), float(high))


def ratio_upper_bounds(totals: Floats, sizes: Floats, *, bound: float, error: float) -> Floats:
    """For each column of `totals` (units, k), the upper end of `ratio_interval`: (k,) numbers from the same draws."""
    if not len(totals):
        return np.full(totals.shape[1], np.inf)
    columns = np.zeros((len(totals) + 1, totals.shape[1] + 2))
    columns[:-1, :-2], columns[:-1, -2], columns[-1, -1] = totals, sizes, bound
    highs = []
    for weights in _draws(len(columns), error):
        drawn = weights @ columns
        highs.append(_ratio(drawn[:, :-2] + drawn[:, -1:], drawn[:, -2:-1], UNKNOWN))
    return np.asarray(np.quantile(np.concatenate(highs), 1 - error, axis=0))


def _ratio(totals: Floats, sizes: Floats, unknown: float) -> Floats:
    """Corrected sizes (search/judging.py) may sum to nothing or less, which bounds nothing."""
    whole = sizes > 0
    return np.where(whole, totals / np.where(whole, sizes, 1.0), unknown)


def mean_interval(values: Floats, *, lowest: float, highest: float, error: float) -> tuple[float, tuple[float, float]]:
    """The mean of independent values within [lowest, highest], and its interval."""
    if not len(values):
        return float("nan"), (lowest, highest)
    lows, highs = [], []
    columns = np.column_stack([np.append(values, lowest), np.append(values, highest), np.ones(len(values) + 1)])
    for weights in _draws(len(columns), error):
        low_sum, high_sum, whole = (weights @ columns).T
        lows.append(low_sum / whole)
        highs.append(high_sum / whole)
    low, high = np.quantile(np.concatenate(lows), error), np.quantile(np.concatenate(highs), 1 - error)
    return float(np.mean(values)), (float(low), float(high))


def share_interval(hits: int, count: int, error: float) -> tuple[float, tuple[float, float]]:
    """A share, and its exact interval (Clopper & Pearson 1934), each side wrong with probability `error` at most."""
    from scipy import stats

    if count == 0:
        return float("nan"), (0.0, 1.0)
    low = 0.0 if hits == 0 else float(stats.beta.ppf(error, hits, count - hits + 1))
    high = 1.0 if hits == count else float(stats.beta.ppf(1 - error, hits + 1, count - hits))
    return hits / count, (low, high)


def paired_difference_interval(lost: int, gained: int, count: int, error: float) -> tuple[float, tuple[float, float]]:
    """(lost - gained) / count of paired yes-or-no results, and its score interval (Tango 1998,
    doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B). Pairs that do not differ keep a width."""
    from scipy import optimize, stats

    if count == 0:
        return float("nan"), (-1.0, 1.0)
    limit = float(stats.norm.ppf(1 - error))

    def score(difference: float) -> float:
        return _tango(lost, gained, count, difference)

    value = (lost - gained) / count
    high = 1.0 if lost == count else optimize.brentq(lambda d: score(d) + limit, value, 1.0 - 1e-12)
    low = -1.0 if gained == count else optimize.brentq(lambda d: score(d) - limit, -1.0 + 1e-12, value)
    return value, (float(low), float(high))


def _tango(lost: int, gained: int, count: int, difference: float) -> float:
    """The score statistic at this difference: how many standard errors the data lie above it."""
    a = 2 * count
    b = -lost - gained + (2 * count - lost + gained) * difference
    c = -gained * difference * (1 - difference)
    share = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = count * (2 * share + difference * (1 - difference))
    distance = lost - gained - count * difference
    if abs(distance) < 1e-12:
        return 0.0
    return float(distance / np.sqrt(variance)) if variance > 0 else math.copysign(math.inf, distance)
