"""Measurement: named quantities of one run, measured or predicted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

UNBOUNDED = 20.0  # times the ratio: an interval wider than this says nothing
PERCENTILES = (50, 90, 95, 99)  # of times that are measured or simulated
MIN_FOR_P99 = 100  # values: with fewer, the 99th percentile is nearly the maximum
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Quantity:
    """One number with its unit and direction. `raw` keeps the values that it was made of.

    `predicted` marks a number that was not measured; reports always label it.
    """

    name: str
    value: float
    unit: str
    better: Better
    raw: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None  # confidence interval of `value`
    predicted: bool = False


@dataclass(frozen=True)
class Measurement:
    """What one run of one subject showed. `conditions` says under what load, on which half, with which seed."""

    subject: str
    quantities: Mapping[str, Quantity]
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.quantities[name].value

    def __contains__(self, name: object) -> bool:
        return name in self.quantities

    def get(self, name: str) -> float | None:
        quantity = self.quantities.get(name)
        return None if quantity is None else quantity.value

    def joined(self, other: Measurement) -> Measurement:
        """Both sets of quantities; the other's win where names meet."""
        return Measurement(
            self.subject, {**self.quantities, **other.quantities}, {**self.conditions, **other.conditions}
        )


def collect(subject: str, quantities: Iterable[Quantity], conditions: Mapping[str, Any] | None = None) -> Measurement:
    return Measurement(subject, {q.name: q for q in quantities}, conditions or {})


@dataclass(frozen=True)
class Comparison:
    """`ratio` is A's output throughput over B's, above 1 when A is faster. An interval that holds 1 is noise."""

    ratio: float
    interval: tuple[float, float]
    a_tokens_per_s: tuple[float, ...]
    b_tokens_per_s: tuple[float, ...]

    def in_other_tokens(self, ratio: float) -> Comparison:
        """With A's throughput converted to B's tokens; one of B's tokens takes `ratio` of A's."""
        low, high = self.interval
        a = tuple(speed / ratio for speed in self.a_tokens_per_s)
        return Comparison(self.ratio / ratio, (low / ratio, high / ratio), a, self.b_tokens_per_s)

    def describe_interval(self) -> str:
        """Few rounds can leave the interval without any bound worth printing."""
        if self.bounds is None:
            return "no interval: too few rounds"
        return "95% confidence {:.2f} to {:.2f}".format(*self.bounds)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval; None where it says nothing."""
        low, high = self.interval
        return (low, high) if math.isfinite(high) and high < UNBOUNDED * self.ratio else None

    @property
    def within_noise(self) -> bool:
        return self.interval[0] <= 1.0 <= self.interval[1]
