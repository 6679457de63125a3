"""Percentiles and the paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 5000

Floats = NDArray[np.float64]


def percentile(values: Sequence[float], percent: float) -> float:
    """With linear interpolation between neighbours, as NumPy and vLLM's benchmark have it."""
    return float(np.percentile(values, percent))


def by_session(sessions: Sequence[str], values: Sequence[float]) -> Floats:
    """One mean a session: requests of one session are not independent, sessions are."""
    grouped: dict[str, list[float]] = {}
    for session, value in zip(sessions, values, strict=True):
        grouped.setdefault(session, []).append(value)
    return np.array([float(np.mean(group)) for group in grouped.values()])


def paired_bootstrap(
    columns: Mapping[str, Floats], statistic: Callable[[Mapping[str, Floats]], Floats], confidence: float, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """The statistic and its percentile interval, resampling whole rows so that pairs stay pairs.

    `statistic` gets each column as an array (..., n) and reduces the last axis. Efron & Tibshirani, An Introduction to
    the Bootstrap (1993), chapter 13. One row alone carries no spread: its interval is unbounded.
    """
    count = len(next(iter(columns.values())))
    value = float(statistic(columns))
    if count < 2:
        return value, (float("-inf"), float("inf"))
    rows = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
    resampled = statistic({name: column[rows] for name, column in columns.items()})
    tail = 100 * (1 - confidence) / 2
    # No interpolation: between a number and infinity there is nothing to interpolate.
    low = np.percentile(resampled, tail, method="lower")
    high = np.percentile(resampled, 100 - tail, method="higher")
    return value, (float(low), float(high))


def mean_interval(values: Floats, confidence: float, seed: int = 0) -> tuple[float, tuple[float, float]]:
    return paired_bootstrap({"value": values}, lambda c: np.mean(c["value"], axis=-1), confidence, seed)


def lost_share(before: Floats, after: Floats, confidence: float) -> tuple[float, tuple[float, float]]:
    """Share of the mean score that was lost, from paired scores in 0..1, with its interval.

    A bootstrap of a few pairs that all agree has no width and would prove anything, so this is the adjusted Wald
    interval for paired proportions: half an observation is added to each of the four outcomes (Agresti & Min 2005,
    doi.org/10.1002/sim.1781). A baseline that is never right has nothing to lose, and nothing can be said.
    """
    from scipy import stats

    baseline = float(before.mean())
    if baseline == 0:
        return 0.0, (float("-inf"), float("inf"))
    lost = before - after
    count = len(lost) + 2
    centre = float(lost.sum()) / count
    variance = (float((lost**2).sum()) + 1 - float(lost.sum()) ** 2 / count) / count**2
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * variance**0.5
    return float(lost.mean()) / baseline, ((centre - half) / baseline, (centre + half) / baseline)
