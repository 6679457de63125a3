"""The bound: earned by labels alone, never broken more often than it says, and unable to hold without them."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.similarity.bound import (
    THRESHOLDS,
    error_of_look,
    labels_at_look,
    least_labels,
    threshold_for,
    upper_bound,
)


def test_the_labels_that_a_limit_needs() -> None:
    assert [least_labels(limit, 0.05) for limit in (0.01, 0.02, 0.05)] == [299, 149, 59]
    assert upper_bound(0, 299, 0.05) <= 0.01 < upper_bound(0, 298, 0.05)
    assert labels_at_look(1, 0.05, error_of_look(1, 0.05)) == 69 and labels_at_look(2, 0.05, 0.05) == 118
    assert sum(error_of_look(n, 0.05) for n in range(1, 10_000)) <= 0.05


def test_too_few_labels_or_too_many_wrong_ones_hold_nothing() -> None:
    assert threshold_for([0.99] * 58, [False] * 58, 0.05, error=0.05) is None
    assert threshold_for([0.99] * 59, [False] * 59, 0.05, error=0.05) is not None
    assert threshold_for([0.99] * 200, [n % 5 == 0 for n in range(200)], 0.05, error=0.05) is None


def test_the_loosest_that_holds_is_taken() -> None:
    scores = [0.95] * 400 + [0.5] * 400
    found = threshold_for(scores, [False] * 400 + [True] * 400, 0.05, error=0.05)
    assert found is not None and 0.5 < found.score <= 0.95 and found.labelled == 400 and found.wrong == 0
    all_right = threshold_for(scores, [False] * 800, 0.05, error=0.05)
    assert all_right is not None and all_right.score == THRESHOLDS[-1]


@pytest.mark.parametrize("limit", [0.05, 0.1])
def test_the_bound_is_broken_no_more_often_than_it_says(limit: float) -> None:
    """Wrong hits are likelier at low scores, as in life."""
    draw, broken, served = np.random.default_rng(0), 0, 0
    for _ in range(300):
        scores = draw.random(600)
        wrong = draw.random(600) < 0.3 * (1 - scores)
        found = threshold_for(scores.tolist(), wrong.tolist(), limit, error=0.05)
        if found is not None:
            served += 1
            broken += 0.3 * (1 - (found.score + 1) / 2) > limit
    assert served > 100 and broken <= 0.05 * 300 + 3 * np.sqrt(0.05 * 0.95 * 300)
