"""The choice: cheapest that holds, never above the best single type, and every refusal with its distance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.errors import Infeasible, UsageError
from pennyweight.plan.allocation import allocate, replicas_alone, slots_of
from pennyweight.plan.options import Bucket, Limits, options_of, placements
from pennyweight.plan.planning import Question, make_plan
from tests.plan.planned import BIG, EXPERTS, LLAMA, SMALL, machine, predictor

BUCKETS = (Bucket(512, 256, 4.0), Bucket(4096, 128, 1.0))
LIMITS = Limits(3000, 60)


def question(**more: Any) -> Question:
    return Question(LLAMA, **{"buckets": BUCKETS, "limits": LIMITS, "machines": (BIG, SMALL), **more})


def test_the_plan_holds_what_it_must_and_says_why() -> None:
    plan = make_plan(question(), predictor())
    parts = [sum(share.parts[n] for share in plan.allocation.shares) for n in range(2)]
    assert parts == pytest.approx([1, 1]) and plan.allocation.gap <= 0.005
    for share in plan.allocation.shares:
        needs = [
            part * slots_of(bucket.rate, capacity.request_seconds, 0.99) / capacity.load.concurrency
            for part, bucket, capacity in zip(share.parts, BUCKETS, share.option.capacities, strict=True)
        ]
        assert sum(needs) <= share.replicas + 1e-6
        assert all(1000 * one.prediction.token.high <= 60 for one in share.option.capacities)
    assert plan.reasons or plan.allocation.shares[0].replicas == 1
    assert len(plan.to_measure) == 2 and plan.to_measure[0] != plan.to_measure[1]


@given(st.floats(0.1, 40), st.floats(20, 200), st.floats(0.5, 50), st.floats(0.5, 50))
@settings(max_examples=15, deadline=None)
def test_it_is_never_dearer_than_the_best_single_type(rate: float, tpot: float, big: float, small: float) -> None:
    machines = (machine(price=big), machine("Small", devices=1, memory=24e9, price=small))
    buckets = (Bucket(512, 256, rate),)
    tried = [
        place for one in machines for place in placements(LLAMA, one, engines=("vllm",), precisions=("bf16", "fp8"))
    ]
    options = options_of(LLAMA, tried, buckets, Limits(3000, tpot), predictor=predictor())
    able = [one for one in options if one.capacities]
    if not able:
        return
    found = allocate(able, buckets, 0.99)
    for one in able:
        replicas = math.ceil(replicas_alone(one, buckets, 0.99) - 1e-9)
        whole = math.ceil(replicas * one.placement.devices / one.placement.machine.devices)
        price = one.placement.machine.usd_per_hour
        assert price is not None and found.hourly_usd <= whole * price.value * 1.006


def test_a_model_that_fits_nowhere_is_told_the_nearest() -> None:
    with pytest.raises(Infeasible, match="fits none of these machine types: nearest is vllm"):
        make_plan(replace(question(), shape=EXPERTS, machines=(SMALL,)), predictor())


def test_limits_that_nothing_holds_are_told_the_distance_and_the_physical_limit() -> None:
    with pytest.raises(Infeasible, match=r"TPOT may be .* Below \d"):
        make_plan(question(limits=Limits(3000, 0.5)), predictor())


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(UsageError, match="attainment"):
        question(limits=Limits(1, 1, 1.0))
    with pytest.raises(UsageError, match="precision"):
        question(precisions=("bf17",))
    with pytest.raises(UsageError, match="sglang runs on none of these machine types: use vllm"):
        question(engines=("vllm", "sglang"))
    with pytest.raises(Infeasible, match="price"):
        make_plan(question(machines=(machine(price=None),)), predictor())


def test_a_smaller_precision_is_to_be_proven() -> None:
    plan = make_plan(question(precisions=("fp8",)), predictor())
    assert any("to be proven by `pw optimize`" in note for note in plan.notes)
