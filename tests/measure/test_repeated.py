"""Runs together: the mean, with a bound that one lucky run cannot lower."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.budget import Budget, Outcome
from pennyweight.measure.repeated import combined
from pennyweight.measurement import Measurement, Quantity, collect

LIMIT = Budget(max_added_nats=None, slo={"ttft_p95_ms": 100.0})


def run(value: float, name: str = "ttft_p95_ms") -> Measurement:
    return collect("x", [Quantity(name, value, "ms", "lower", (value,))], {"seed": 0})


def outcome(values: list[float]) -> Outcome:
    return LIMIT.judge_limits(combined([run(value) for value in values], 0.025), LIMIT.speed_limits).outcome


def test_one_run_stays_as_it_is() -> None:
    assert combined([run(5.0)], 0.025) == run(5.0)


def test_the_mean_has_students_interval() -> None:
    found = combined([run(90.0), run(100.0), run(110.0)], 0.025).quantities["ttft_p95_ms"]
    assert (found.value, found.raw) == (100.0, (90.0, 100.0, 110.0))
    assert found.interval == (pytest.approx(75.16, abs=0.01), pytest.approx(124.84, abs=0.01))


def test_a_limit_is_held_by_the_bound_and_not_by_the_mean() -> None:
    assert outcome([70.0, 71.0, 72.0]) is Outcome.ACCEPT
    assert outcome([90.0, 97.0, 99.0]) is Outcome.INCONCLUSIVE
    assert outcome([120.0, 121.0, 122.0]) is Outcome.REJECT


def test_what_is_beyond_the_limit_seldom_passes() -> None:
    random = np.random.default_rng(0)
    passed = [outcome(list(random.normal(110, 11, 3))) is Outcome.ACCEPT for _ in range(300)]
    assert np.mean(passed) <= 0.025


def test_memory_is_the_highest_peak() -> None:
    found = combined([run(value, "peak_memory_bytes") for value in (1e9, 2e9, 1e9)], 0.025)
    assert found["peak_memory_bytes"] == 2e9
