"""Percentiles and the paired bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pennyweight.measure.statistics import by_session, lost_share, mean_interval, paired_bootstrap, percentile


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


def test_nothing_lost_in_a_few_pairs_is_not_proof_of_a_small_margin() -> None:
    right = np.ones(16)
    value, (low, high) = lost_share(right, right, 0.95)
    assert value == 0.0
    assert low < -0.05 and high > 0.05


def test_the_interval_of_a_loss_narrows_with_more_pairs() -> None:
    widths = []
    for count in (16, 64, 256, 1024):
        low, high = lost_share(np.ones(count), np.ones(count), 0.95)[1]
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.01


def test_a_large_loss_is_seen_as_one() -> None:
    after = np.array([1.0, 0.0] * 40)
    value, (low, high) = lost_share(np.ones(80), after, 0.95)
    assert value == pytest.approx(0.5)
    assert 0.35 < low < 0.5 < high < 0.65


def test_a_baseline_that_is_never_right_says_nothing() -> None:
    assert lost_share(np.zeros(40), np.zeros(40), 0.95) == (0.0, (-math.inf, math.inf))


@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_the_interval_of_a_loss_covers_the_truth(rate: float) -> None:
    """Agresti & Min's interval keeps its level in small samples."""
    generator = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        before = (generator.random(60) < 0.7).astype(float)
        after = np.where(generator.random(60) < rate, 0.0, before)
        low, high = lost_share(before, after, 0.95)[1]
        covered += low * before.mean() <= rate * 0.7 <= high * before.mean()
    assert covered >= 0.92 * 400
