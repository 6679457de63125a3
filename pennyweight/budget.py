"""Budget: what a deployment must hold, what to make best, and the judgement of a measurement against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pennyweight.errors import UsageError
from pennyweight.measurement import Measurement

# objective -> the quantity that it makes best
OBJECTIVES = {
    "throughput": "output_throughput",
    "latency": "e2e_p50_ms",
    "ttft": "ttft_p50_ms",
    "memory": "peak_memory_bytes",
    "cost": "dollars_per_million_tokens",
}


class Outcome(StrEnum):
    ACCEPT = "ACCEPT"
    REJECT = "REJECT"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Limit:
    """`quantity` must stay at or below `bound` (or at or above, where higher is better)."""

    quantity: str
    bound: float
    floor: bool = False

    def margin(self, value: float) -> float:
        """How far inside the limit a value is, as a share of the bound: negative when broken."""
        distance = (value - self.bound) if self.floor else (self.bound - value)
        return distance / abs(self.bound) if self.bound else distance


@dataclass(frozen=True)
class LimitVerdict:
    """One limit held against one measurement. A quantity that was not measured never passes."""

    limit: Limit
    value: float | None
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Verdict:
    """All limits together: REJECT if one is broken, else INCONCLUSIVE if one is open, else ACCEPT."""

    limits: tuple[LimitVerdict, ...] = ()

    @property
    def outcome(self) -> Outcome:
        outcomes = {v.outcome for v in self.limits}
        for worst in (Outcome.REJECT, Outcome.INCONCLUSIVE):
            if worst in outcomes:
                return worst
        return Outcome.ACCEPT

    @property
    def reason(self) -> str:
        """Why it is not accepted; empty when it is."""
        return "; ".join(v.reason for v in self.limits if v.outcome is not Outcome.ACCEPT)


@dataclass(frozen=True)
class Budget:
    """Quality margins are judged on confidence intervals (non-inferiority); the other limits on the measured value.

    `max_added_nats`: cross-entropy per token that may be added over the baseline's own answers.
    `max_degradation`: share of the baseline's task score that may be lost.
    `slo`: quantity -> bound in its unit, for example `{"ttft_p95_ms": 1500}`.
    """

    objective: str = "throughput"
    max_added_nats: float | None = 0.02
    max_degradation: float | None = None
    slo: Mapping[str, float] = field(default_factory=dict)
    max_memory_bytes: float | None = None
    max_dollars_per_million_tokens: float | None = None
    price_per_hour: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"Objective {self.objective!r} is unknown: use one of {', '.join(OBJECTIVES)}.")
        bounds = {
            "max-added-nats": self.max_added_nats,
            "max-memory": self.max_memory_bytes,
            "max-cost": self.max_dollars_per_million_tokens,
            **self.slo,
        }
        for name, bound in bounds.items():
            if bound is not None and not 0 < bound < float("inf"):
                raise UsageError(f"The limit {name} is {bound:g}, which says nothing: use a value above 0.")
        for name in self.slo:
            if not name.endswith("_ms"):
                raise UsageError(f"The limit {name} is no latency: --slo takes ttft, tpot, itl and e2el.")
        if self.price_per_hour is not None and not 0 < self.price_per_hour < float("inf"):
            raise UsageError(f"The price-per-hour is {self.price_per_hour:g}: use a value above 0.")
        if self.max_degradation is not None and not 0 < self.max_degradation < 1:
            raise UsageError(
                f"--max-degradation {self.max_degradation:.0%} contradicts itself: use more than 0% and less than 100%."
            )
        if not 0.5 < self.confidence < 1:
            raise UsageError(f"--confidence {self.confidence:g} is not possible: use a value between 0.5 and 1.")
        if self.objective == "cost" and self.price_per_hour is None:
            raise UsageError("The objective cost needs a price: add --price-per-hour.")
        if self.max_dollars_per_million_tokens is not None and self.price_per_hour is None:
            raise UsageError("The limit --max-cost needs a price: add --price-per-hour.")

    @property
    def quality_limits(self) -> tuple[Limit, ...]:
        limits = []
        if self.max_added_nats is not None:
            limits.append(Limit("added_nats", self.max_added_nats))
        if self.max_degradation is not None:
            limits.append(Limit("degradation", self.max_degradation))
        return tuple(limits)

    @property
    def speed_limits(self) -> tuple[Limit, ...]:
        limits = [Limit(name, bound) for name, bound in sorted(self.slo.items())]
        if self.max_memory_bytes is not None:
            limits.append(Limit("peak_memory_bytes", self.max_memory_bytes))
        if self.max_dollars_per_million_tokens is not None:
            limits.append(Limit("dollars_per_million_tokens", self.max_dollars_per_million_tokens))
        return tuple(limits)

    def judge(self, measurement: Measurement) -> Verdict:
        """Hold every limit against the measurement; a missing quantity rejects, it is never passed over."""
        return self.judge_limits(measurement, self.quality_limits + self.speed_limits)

    def judge_limits(self, measurement: Measurement, limits: tuple[Limit, ...]) -> Verdict:
        return Verdict(tuple(_judge(limit, measurement) for limit in limits))

    def score(self, measurement: Measurement) -> float:
        """The objective as a number of which more is better."""
        quantity = measurement.quantities.get(OBJECTIVES[self.objective])
        if quantity is None:
            return float("-inf")
        return quantity.value if quantity.better == "higher" else -quantity.value


def _judge(limit: Limit, measurement: Measurement) -> LimitVerdict:
    quantity, note = measurement.quantities.get(limit.quantity), ""
    if quantity is None and limit.quantity.endswith("_p99_ms"):  # of fewer than a hundred values there is no p99
        quantity, note = (
            measurement.quantities.get(limit.quantity.replace("_p99_", "_max_")),
            " (the maximum: too few for a p99)",
        )
    if quantity is None:
        return LimitVerdict(limit, None, Outcome.REJECT, f"{limit.quantity} was not measured")
    value, interval = quantity.value, quantity.interval
    if interval is None:
        held = limit.margin(value) >= 0
        unit = "" if quantity.unit in ("", "1") else f" {quantity.unit}"
        side = "at least" if limit.floor else "at most"
        reason = f"{limit.quantity} is {value:.4g}{unit}{note}, {side} {limit.bound:.4g}{unit} is required"
        return LimitVerdict(limit, value, Outcome.ACCEPT if held else Outcome.REJECT, reason)
    if any(math.isnan(end) for end in interval):
        return LimitVerdict(limit, value, Outcome.INCONCLUSIVE, f"{limit.quantity} has no interval yet")
    margins = sorted(limit.margin(end) for end in interval)
    shown = (
        f"{limit.quantity} is {value:.4g} (interval {interval[0]:.4g} to {interval[1]:.4g}), limit {limit.bound:.4g}"
    )
    if margins[0] >= 0:
        return LimitVerdict(limit, value, Outcome.ACCEPT, shown)
    if margins[1] < 0:
        return LimitVerdict(limit, value, Outcome.REJECT, shown)
    return LimitVerdict(limit, value, Outcome.INCONCLUSIVE, shown)
