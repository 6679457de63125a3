"""Percentiles and the paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 5000
PERCENTILES = (50, 90, 95, 99)

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


def ratio_interval(above: Floats, below: Floats, confidence: float, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Ratio of two paired means. A zero denominator gives infinity, which no limit accepts."""

    def ratio(columns: Mapping[str, Floats]) -> Floats:
        top, bottom = np.mean(columns["above"], axis=-1), np.mean(columns["below"], axis=-1)
        quotient: Floats = np.divide(top, bottom, out=np.full_like(bottom, np.inf), where=bottom != 0)
        return quotient

    return paired_bootstrap({"above": above, "below": below}, ratio, confidence, seed)
