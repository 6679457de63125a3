"""Percentiles and the paired bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pennyweight.measure.statistics import by_session, mean_interval, paired_bootstrap, percentile, ratio_interval


def test_percentiles_interpolate_between_neighbours() -> None:
    assert percentile([4, 1, 3, 2], 50) == 2.5
    assert percentile([7], 99) == 7
    assert percentile(range(101), 95) == 95


def test_a_session_counts_once() -> None:
    assert by_session(["a", "b", "a"], [1.0, 5.0, 3.0]).tolist() == [2.0, 5.0]


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(confidence: float) -> None:
    source = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        low, high = mean_interval(source.exponential(1.0, 50), confidence, seed)[1]
        covered += low <= 1.0 <= high
    assert covered / 200 == pytest.approx(confidence, abs=0.07)


def test_more_confidence_is_a_wider_interval_around_the_same_value() -> None:
    values = np.random.default_rng(2).normal(size=40)
    narrow, wide = (mean_interval(values, confidence) for confidence in (0.8, 0.99))
    assert narrow[0] == wide[0] == pytest.approx(values.mean())
    assert wide[1][0] < narrow[1][0] < narrow[0] < narrow[1][1] < wide[1][1]


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=20)
    assert mean_interval(values, 0.95, 4) == mean_interval(values, 0.95, 4) != mean_interval(values, 0.95, 5)


def test_one_row_alone_is_unbounded() -> None:
    assert mean_interval(np.array([0.0]), 0.95) == (0.0, (-math.inf, math.inf))


def test_pairs_stay_pairs() -> None:
    before = np.random.default_rng(4).normal(size=30)
    value, (low, high) = paired_bootstrap(
        {"a": before + 1.0, "b": before}, lambda c: np.mean(c["a"] - c["b"], axis=-1), 0.95
    )
    assert value == pytest.approx(1.0) and high - low < 1e-9


def test_a_ratio_of_proportional_columns_has_no_spread() -> None:
    below = np.random.default_rng(5).uniform(1, 2, 30)
    value, (low, high) = ratio_interval(0.1 * below, below, 0.95)
    assert (value, low, high) == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize("above", [1.0, 0.0, -1.0])
def test_a_zero_denominator_gives_infinity_which_no_limit_accepts(above: float) -> None:
    value, (low, high) = ratio_interval(np.full(10, above), np.zeros(10), 0.95)
    assert value == low == high == math.inf


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("lost", [0.0, 1.0])
def test_a_denominator_that_is_mostly_zero_gives_an_interval_open_to_above(lost: float) -> None:
    below = np.array([1.0] + [0.0] * 9)
    low, high = ratio_interval(lost * below, below, 0.95)[1]
    assert not math.isnan(low) and high == math.inf
