"""Bounds: equal values keep a width, and the error holds where losses are rare and large."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.measure.proof.intervals import (
    mean_interval,
    paired_difference_interval,
    ratio_interval,
    ratio_upper_bounds,
    share_interval,
)


def test_equal_values_keep_a_width_that_shrinks_with_their_number() -> None:
    widths = []
    for count in (16, 64, 256):
        value, (low, high) = mean_interval(np.zeros(count), lowest=-0.1, highest=0.1, error=0.025)
        assert value == pytest.approx(0.0) and low < 0 < high
        assert high == pytest.approx(0.1 * (1 - 0.025 ** (1 / count)), rel=0.1)  # one unseen worst case
        widths.append(high)
    assert widths == sorted(widths, reverse=True)


def test_one_value_proves_next_to_nothing() -> None:
    _, (low, high) = mean_interval(np.array([0.0]), lowest=-1.0, highest=1.0, error=0.025)
    assert low < -0.9 and high > 0.9


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=50))
def test_the_mean_lies_within_and_the_interval_within_the_range(values: list[float]) -> None:
    value, (low, high) = mean_interval(np.array(values), lowest=-1.0, highest=1.0, error=0.05)
    assert -1 - 1e-9 <= low <= value + 1e-9 and value - 1e-9 <= high <= 1 + 1e-9


def test_units_are_weighed_by_their_size() -> None:
    value, _ = ratio_interval(np.array([0.0, 3.0]), np.array([1.0, 3.0]), bound=3.0, error=0.05)
    assert value == pytest.approx(0.75)


@pytest.mark.parametrize(("share", "loss"), [(0.2, 0.1), (0.4, 0.05)])
def test_rare_losses_at_the_margin_are_seldom_called_below_it(share: float, loss: float) -> None:
    """Each has a mean of 0.02; a bootstrap of values that are nearly all equal is below it far too often."""
    random, below, runs = np.random.default_rng(1), 0, 300
    for _ in range(runs):
        values = np.where(random.random(64) < share, loss, 0.0)
        below += mean_interval(values, lowest=-0.1, highest=0.1, error=0.025)[1][1] <= 0.02
    assert below / runs <= 0.05


def test_a_share_has_the_exact_interval() -> None:
    value, (low, high) = share_interval(0, 64, 0.05)
    assert (value, low) == (0.0, 0.0)
    assert high == pytest.approx(1 - 0.05 ** (1 / 64))
    assert share_interval(5, 5, 0.05)[1][1] == 1.0
    assert math.isnan(share_interval(0, 0, 0.05)[0])


def test_paired_proportions_that_never_differ_keep_a_width() -> None:
    value, (low, high) = paired_difference_interval(0, 0, 100, 0.025)
    assert value == 0 and high == pytest.approx(1.96**2 / (100 + 1.96**2), rel=1e-3) and low == pytest.approx(-high)


def test_paired_proportions_as_published() -> None:
    """Tango 1998, table III: 44 pairs, 0 lost and 1 gained; 95% interval -0.027 to 0.118 for the gain."""
    value, (low, high) = paired_difference_interval(1, 0, 44, 0.025)
    assert value == pytest.approx(1 / 44)
    assert (low, high) == (pytest.approx(-0.059, abs=2e-3), pytest.approx(0.118, abs=2e-3))


def test_sizes_that_sum_to_nothing_bound_nothing() -> None:
    """Of scores that labels correct, some are below 0."""
    sizes = np.array([-1.0] * 30 + [1.0] * 20)
    assert ratio_upper_bounds(np.zeros((50, 1)), sizes, bound=1.0, error=0.05)[0] > 1e200
    low, high = ratio_interval(np.zeros(50), sizes, bound=1.0, error=0.05)[1]
    assert low < -1e200 and high > 1e200
