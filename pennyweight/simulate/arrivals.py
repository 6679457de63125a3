"""When the requests of a simulation come: the same times for the same seed."""

from __future__ import annotations

import math

import numpy as np

from pennyweight.errors import UsageError
from pennyweight.simulate.request_table import Floats, RequestTable
from pennyweight.workload import Arrivals


def poisson(count: int, rate: float, seed: int = 0, *, burstiness: float = 1.0) -> Floats:
    """`count` times at `rate` per second. `burstiness` is the gaps' gamma shape: 1 is Poisson, less is burstier."""
    if not (0 < rate < math.inf and 0 < burstiness < math.inf):
        raise UsageError(f"Arrivals at {rate} per second with burstiness {burstiness} are not possible: give both > 0.")
    gaps = np.random.default_rng(seed).gamma(burstiness, 1 / (burstiness * rate), size=count)
    return np.cumsum(gaps)


def sine(count: int, mean_rate: float, *, amplitude: float, period: float, seed: int = 0) -> Floats:
    """Poisson arrivals whose rate is `mean_rate` (1 + amplitude sin(2 pi t / period)): a day, made as short as needed.
    Times at a rate of 1 are moved to where the rate's integral reaches them."""
    if not (0 <= amplitude < 1 and 0 < period < math.inf):
        raise UsageError(f"A sine of amplitude {amplitude} and period {period} is not possible: use 0 to 1, and > 0.")
    expected = poisson(count, 1.0, seed)
    seconds = np.linspace(0, expected[-1] / mean_rate / (1 - amplitude) + period, 64 * 1024)
    integral = mean_rate * (seconds + amplitude * period / (2 * math.pi) * (1 - np.cos(2 * math.pi * seconds / period)))
    return np.interp(expected, integral, seconds)


def at_rate(table: RequestTable, rate: float, seed: int = 0) -> RequestTable:
    """Its own times, faster or slower, where it has any; else Poisson's."""
    seconds = float(table.arrival[-1] - table.arrival[0])
    if seconds > 0:
        return table.faster(rate * seconds / max(1, len(table) - 1))
    return table.at(poisson(len(table), rate, seed))


def arranged(table: RequestTable, arrivals: Arrivals, seed: int = 0) -> RequestTable:
    """The table with the arrivals that `pw bench` would send it by. A bound on requests at a time is a closed loop's
    only: a recorded or random arrival is never held back here."""
    if arrivals.kind == "closed":
        return table.closed_loop(arrivals.max_concurrency or 1)
    if arrivals.max_concurrency is not None:
        raise UsageError("--max-concurrency bounds closed arrivals only in a simulation: leave it out.")
    if arrivals.kind == "recorded":
        return table.faster(1 / arrivals.time_scale)
    return table.at(poisson(len(table), arrivals.request_rate, seed, burstiness=arrivals.burstiness))
