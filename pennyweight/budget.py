"""Budget: what a deployment must hold, what to make best, and the judgement of a measurement against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pennyweight.errors import UsageError
from pennyweight.measurement import Measurement

DEFAULT_MARGIN = 0.02  # nats per token
CLIP_MARGINS = 5  # times the margin: the most that one request's loss counts in the mean
LENGTH_CLIP = 0.5  # of a unit's average length: the most that one counts
# A unit counts as many changed endings as the average one has requests, at most: otherwise the longest session that was
# seen would be the worst case that could be unseen, and dialogues of unequal length could never be judged.
ENDING_CLIP = 1.0
MIN_P_VALUE = 0.01  # of the two-sample test of sampled answers
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
    """Every limit is judged on a bound of a confidence interval.

    max_added_nats     nats per token that may be added over the baseline's own answers; of one session at most what
                       `clip_nats` a token come to over a session of average length
    max_tail_share     share of sessions that may lose more than that
    max_divergence     nats per token of divergence from the baseline, which sees sharpening too; None: twice
                       `max_added_nats`
    min_agreement      share of the answers' tokens that must be the candidate's first choice
    max_departures     share of sessions whose served answer leaves the baseline's where scoring is sure of it
    max_ending_shift   difference in the share of answers that end by themselves
    max_length_shift   difference in the length of all answers, as a share
    max_degradation    share of the baseline's task score that may be lost
    max_invalid_forms  share of answers that may lose the form they must have (JSON schema, tool call)
    slo                quantity -> bound in its unit, for example `{"ttft_p95_ms": 1500}`
    """

    objective: str = "throughput"
    max_added_nats: float | None = 0.02
    max_degradation: float | None = None
    slo: Mapping[str, float] = field(default_factory=dict)
    max_memory_bytes: float | None = None
    max_dollars_per_million_tokens: float | None = None
    price_per_hour: float | None = None
    confidence: float = 0.95
    max_tail_share: float = 0.10
    max_divergence: float | None = None
    min_agreement: float | None = None
    max_ending_shift: float = 0.20
    max_length_shift: float = 0.20
    max_invalid_forms: float = 0.05
    max_departures: float = 0.10

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"Objective {self.objective!r} is unknown: use one of {', '.join(OBJECTIVES)}.")
        bounds = {
            "max-added-nats": self.max_added_nats,
            "max-tail-share": self.max_tail_share,
            "max-divergence": self.max_divergence,
            "min-agreement": self.min_agreement,
            "max-ending-shift": self.max_ending_shift,
            "max-length-shift": self.max_length_shift,
            "max-invalid-forms": self.max_invalid_forms,
            "max-departures": self.max_departures,
            "max-memory": self.max_memory_bytes,
            "max-cost": self.max_dollars_per_million_tokens,
            **self.slo,
        }
        for name, bound in bounds.items():
            if bound is not None and not 0 < bound < float("inf"):
                raise UsageError(f"The limit {name} is {bound:g}, which says nothing: use a value above 0.")
        self._check_shares()
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

    def _check_shares(self) -> None:
        """A limit at the largest value that can be measured would hold whatever happens."""
        for name, bound, most in (
            ("tail-share", self.max_tail_share, 1.0),
            ("departures", self.max_departures, 1.0),
            ("ending-shift", self.max_ending_shift, ENDING_CLIP),
            ("length-shift", self.max_length_shift, LENGTH_CLIP),
        ):
            if bound >= most:
                raise UsageError(f"--max-{name} {bound:g} allows everything: use less than {most:g}.")

    @property
    def clip_nats(self) -> float:
        """Per token of a session of average length: the most that one session's loss counts in the mean. What loses
        more is counted by the tail's bound. A larger clip would need more sessions: a mean is only as sure as its
        largest possible value allows."""
        return CLIP_MARGINS * (self.max_added_nats or DEFAULT_MARGIN)

    @property
    def divergence_limit(self) -> float:
        return self.max_divergence or 2 * (self.max_added_nats or DEFAULT_MARGIN)

    @property
    def quality_limits(self) -> tuple[Limit, ...]:
        """What every proof must show; measure/proof/ measures them."""
        limits = [Limit("different_prompts", 0.0)]
        if self.max_added_nats is not None:
            limits.append(Limit("added_nats", self.max_added_nats))
            limits.append(Limit("divergence", self.divergence_limit))
            limits.append(Limit("departures", self.max_departures))
            limits.append(Limit("tail_share", self.max_tail_share))
        if self.min_agreement is not None:
            limits.append(Limit("agreement", self.min_agreement, floor=True))
        limits.append(Limit("empty_answers", 0.0))
        limits.append(Limit("different_texts", 0.0))
        limits.append(Limit("ending_shift", self.max_ending_shift))
        limits.append(Limit("length_shift", self.max_length_shift))
        if self.max_degradation is not None:
            limits.append(Limit("degradation", self.max_degradation))
        return tuple(limits)

    @property
    def form_limits(self) -> tuple[Limit, ...]:
        """What only workloads with forms or sampling can show."""
        return (Limit("invalid_forms", self.max_invalid_forms), Limit("sampled_p_value", MIN_P_VALUE, floor=True))

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

    def judge_limits(
        self, measurement: Measurement, limits: tuple[Limit, ...], reasons: Mapping[str, str] | None = None
    ) -> Verdict:
        """`reasons` say in words, by quantity, what broke a limit."""
        said = reasons or {}
        return Verdict(tuple(_judge(limit, measurement, said.get(limit.quantity, "")) for limit in limits))

    def score(self, measurement: Measurement) -> float:
        """The objective as a number of which more is better."""
        quantity = measurement.quantities.get(OBJECTIVES[self.objective])
        if quantity is None:
            return float("-inf")
        return quantity.value if quantity.better == "higher" else -quantity.value


def _judge(limit: Limit, measurement: Measurement, said: str = "") -> LimitVerdict:
    verdict = _held(limit, measurement)
    if said and verdict.outcome is not Outcome.ACCEPT:
        return replace(verdict, reason=f"{verdict.reason}: {said}")
    return verdict


def _held(limit: Limit, measurement: Measurement) -> LimitVerdict:
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
