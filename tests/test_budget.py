"""Budget: what is proven passes, what is open stays open, what is missing never passes."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pennyweight import codec
from pennyweight.budget import OBJECTIVES, Budget, Limit, LimitVerdict, Outcome, Verdict
from pennyweight.errors import UsageError
from pennyweight.hardware import UNKNOWN_EFFICIENCY, Hardware
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.plan.cost import Load, predict

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

bounds = st.floats(1e-6, 1e6)
values = st.floats(-1e7, 1e7)


HARMLESS = (
    "different_prompts",
    "divergence",
    "departures",
    "tail_share",
    "empty_answers",
    "different_texts",
    "ending_shift",
    "length_shift",
)


def measured(name: str, value: float, interval: tuple[float, float] | None = None) -> Measurement:
    """This quantity, beside others that break no limit."""
    harmless = [Quantity(other, 0.0, "1", "lower") for other in HARMLESS]
    return collect("x", [*harmless, Quantity(name, value, "nats", "lower", interval=interval)])


@STEADY
@given(bounds, values, values)
def test_a_quality_limit_is_judged_on_the_whole_interval(bound: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    verdict = Budget(max_added_nats=bound).judge(measured("added_nats", (low + high) / 2, (low, high)))
    expected = Outcome.ACCEPT if high <= bound else Outcome.REJECT if low > bound else Outcome.INCONCLUSIVE
    assert verdict.outcome is expected


@STEADY
@given(bounds, values, values)
def test_a_floor_is_a_ceiling_turned_over(bound: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    verdict = Budget().judge_limits(measured("score", low, (low, high)), (Limit("score", bound, floor=True),))
    expected = Outcome.ACCEPT if low >= bound else Outcome.REJECT if high < bound else Outcome.INCONCLUSIVE
    assert verdict.outcome is expected


@STEADY
@given(bounds, values)
def test_a_limit_without_an_interval_is_judged_on_the_value(bound: float, value: float) -> None:
    verdict = Budget(max_added_nats=None, slo={"ttft_p95_ms": bound}).judge(measured("ttft_p95_ms", value))
    assert verdict.outcome is (Outcome.ACCEPT if value <= bound else Outcome.REJECT)


def test_a_missing_quantity_rejects_and_is_named() -> None:
    verdict = Budget(slo={"ttft_p95_ms": 1.0}).judge(measured("added_nats", 0.0))
    assert verdict.outcome is Outcome.REJECT
    assert verdict.reason == "ttft_p95_ms was not measured"


@pytest.mark.parametrize("interval", [(0.001, math.nan), (math.nan, 0.001), (math.nan, math.nan), (0.0, math.inf)])
def test_an_interval_that_is_no_interval_is_never_accepted(interval: tuple[float, float]) -> None:
    assert Budget().judge(measured("added_nats", 0.001, interval)).outcome is not Outcome.ACCEPT


def test_a_value_that_is_no_number_is_rejected() -> None:
    assert Budget().judge(measured("added_nats", math.nan)).outcome is Outcome.REJECT


def test_a_service_level_of_which_more_is_better_is_refused() -> None:
    with pytest.raises(UsageError, match="output_throughput"):
        Budget(max_added_nats=None, slo={"output_throughput": 100.0})


@pytest.mark.parametrize("outcomes", list(itertools.product(Outcome, repeat=2)))
def test_the_worst_limit_decides(outcomes: tuple[Outcome, ...]) -> None:
    verdict = Verdict(tuple(LimitVerdict(Limit("q", 1.0), 0.0, o, f"because {o}") for o in outcomes))
    order = [Outcome.ACCEPT, Outcome.INCONCLUSIVE, Outcome.REJECT]
    assert verdict.outcome is max(outcomes, key=order.index)
    assert bool(verdict.reason) == (verdict.outcome is not Outcome.ACCEPT)
    assert "ACCEPT" not in verdict.reason


def test_every_limit_that_is_set_is_judged() -> None:
    budget = Budget(
        max_added_nats=0.02,
        max_degradation=0.01,
        slo={"ttft_p95_ms": 9.0, "e2e_p95_ms": 99.0},
        max_memory_bytes=1e9,
        max_dollars_per_million_tokens=1.0,
        price_per_hour=1.0,
    )
    assert {limit.limit.quantity for limit in budget.judge(Measurement("x", {})).limits} == {
        *HARMLESS,
        "added_nats",
        "degradation",
        "ttft_p95_ms",
        "e2e_p95_ms",
        "peak_memory_bytes",
        "dollars_per_million_tokens",
    }


def test_what_was_not_measured_is_never_accepted() -> None:
    """Not even where no margin is set: prompts and endings are compared in every proof."""
    assert Budget(max_added_nats=None).judge(Measurement("x", {})).outcome is Outcome.REJECT


def test_divergence_follows_the_margin_unless_it_is_set() -> None:
    assert Budget(max_added_nats=0.05).divergence_limit == 0.1
    assert Budget(max_added_nats=0.05, max_divergence=0.3).divergence_limit == 0.3


@STEADY
@given(bounds, values)
def test_the_margin_is_negative_exactly_where_the_limit_is_broken(bound: float, value: float) -> None:
    assume(abs(value - bound) > 1e-9 * bound)
    assert (Limit("q", bound).margin(value) < 0) == (value > bound)
    assert (Limit("q", bound, floor=True).margin(value) < 0) == (value < bound)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"objective": "beauty"}, "beauty"),
        ({"max_added_nats": 0.0}, "max-added-nats"),
        ({"max_added_nats": -1.0}, "max-added-nats"),
        ({"max_memory_bytes": 0}, "max-memory"),
        ({"slo": {"ttft_p95_ms": 0.0}}, "ttft_p95_ms"),
        ({"max_degradation": 0.0}, "--max-degradation"),
        ({"max_degradation": 1.0}, "--max-degradation"),
        ({"confidence": 0.5}, "--confidence"),
        ({"confidence": 1.0}, "--confidence"),
        ({"objective": "cost"}, "--price-per-hour"),
        ({"max_dollars_per_million_tokens": 1.0}, "--price-per-hour"),
        ({"price_per_hour": -1.0, "objective": "cost"}, "price-per-hour"),
        ({"slo": {"ttft_p95_ms": math.nan}}, "ttft_p95_ms"),
    ],
)
def test_a_budget_that_contradicts_itself_is_refused(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Budget(**arguments)


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"cost"}))
def test_what_is_predicted_can_be_scored_for_every_objective(objective: str) -> None:
    config = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 32,
    }
    machine = Hardware("cpu", 2, 1 << 30, memory_bandwidth=1e9, arithmetic_rate={"f32": 1e9})
    prediction = predict("x", config, "F32", UNKNOWN_EFFICIENCY, machine, load=Load(10, 10, 1))
    assert math.isfinite(Budget(objective=objective).score(prediction))


def test_more_score_is_better_whatever_the_direction() -> None:
    def score(objective: str, value: float, better: Any) -> float:
        quantity = Quantity(OBJECTIVES[objective], value, "?", better)
        return Budget(objective=objective).score(collect("x", [quantity]))

    assert score("throughput", 2.0, "higher") > score("throughput", 1.0, "higher")
    assert score("memory", 1.0, "lower") > score("memory", 2.0, "lower")
    assert Budget().score(Measurement("x", {})) == -math.inf


def test_a_budget_survives_being_written_as_json() -> None:
    budget = Budget("cost", 0.05, 0.01, {"ttft_p95_ms": 1500.0}, 2e9, 0.5, 0.1, 0.99)
    assert codec.value_of(Budget, json.loads(json.dumps(codec.plain(budget))), "here") == budget


def test_a_verdict_is_written_with_every_limit_and_reason() -> None:
    verdict = Budget(slo={"ttft_p95_ms": 5.0}).judge(measured("added_nats", 0.01, (0.0, 0.05)))
    written = codec.plain(verdict)
    assert verdict.outcome is Outcome.REJECT and codec.value_of(Verdict, written, "here") == verdict
    outcomes = {v["limit"]["quantity"]: v["outcome"] for v in written["limits"]}
    assert (outcomes["added_nats"], outcomes["ttft_p95_ms"]) == ("INCONCLUSIVE", "REJECT")
    assert json.loads(json.dumps(written)) == written


def test_of_few_requests_the_maximum_stands_for_a_p99() -> None:
    budget = Budget(max_added_nats=None, slo={"ttft_p99_ms": 5.0})
    few = budget.judge_limits(collect("x", [Quantity("ttft_max_ms", 6.0, "ms", "lower")]), budget.speed_limits)
    assert few.outcome is Outcome.REJECT and "maximum" in few.reason
    many = [Quantity("ttft_max_ms", 6.0, "ms", "lower"), Quantity("ttft_p99_ms", 4.0, "ms", "lower")]
    assert budget.judge_limits(collect("x", many), budget.speed_limits).outcome is Outcome.ACCEPT
