"""The bound: earned by labels alone, never broken more often than it says, and unable to hold without them."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.similarity.bound import (
    THRESHOLDS,
    Judged,
    bound_on_wrong,
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
    assert threshold_for([Judged(0.99, False)] * 58, 0.05, error=0.05) is None
    assert threshold_for([Judged(0.99, False)] * 59, 0.05, error=0.05) is not None
    assert threshold_for([Judged(0.99, n % 5 == 0) for n in range(200)], 0.05, error=0.05) is None


def test_the_loosest_that_holds_is_taken() -> None:
    scores = [0.95] * 400 + [0.5] * 400
    found = threshold_for([Judged(score, score < 0.9) for score in scores], 0.05, error=0.05)
    assert found is not None and 0.5 < found.score <= 0.95 and found.labelled == 400 and found.wrong == 0
    all_right = threshold_for([Judged(score, False) for score in scores], 0.05, error=0.05)
    assert all_right is not None and all_right.score == THRESHOLDS[-1]


@pytest.mark.parametrize("limit", [0.05, 0.1])
def test_the_bound_is_broken_no_more_often_than_it_says(limit: float) -> None:
    """Wrong hits are likelier at low scores, as in life."""
    draw, broken, served = np.random.default_rng(0), 0, 0
    for _ in range(300):
        scores = draw.random(600)
        wrong = draw.random(600) < 0.3 * (1 - scores)
        labels = [Judged(*label) for label in zip(scores.tolist(), wrong.tolist(), strict=True)]
        found = threshold_for(labels, limit, error=0.05)
        if found is not None:
            served += 1
            broken += 0.3 * (1 - (found.score + 1) / 2) > limit
    assert served > 100 and broken <= 0.05 * 300 + 3 * np.sqrt(0.05 * 0.95 * 300)


def test_equal_words_are_one_label_however_often_they_are_asked() -> None:
    again = [Judged(0.99, False, words=str(n % 10)) for n in range(1000)]
    assert threshold_for(again, 0.05, error=0.05) is None
    assert bound_on_wrong(again, 0.05) == pytest.approx(upper_bound(0, 10, 0.05))
    mostly_once = [Judged(0.99, False, words=str(n)) for n in range(300)] + again[:30]
    assert threshold_for(mostly_once, 0.05, error=0.05) is not None


def test_wrong_labels_that_come_together_count_as_fewer() -> None:
    apart = [Judged(0.99, n % 50 == 0, answer=str(n // 5)) for n in range(300)]
    together = [Judged(0.99, n < 6, answer=str(n // 6)) for n in range(300)]
    assert bound_on_wrong(together, 0.05) > 1.5 * bound_on_wrong(apart, 0.05)
    assert bound_on_wrong(apart, 0.05) == pytest.approx(upper_bound(6, 300, 0.05), rel=0.01)


def test_the_bound_holds_where_all_wordings_of_a_meaning_are_wrong_together() -> None:
    """Beside it what was done before, which is broken far more often."""
    draw, broken, naive = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        labels = [
            Judged(0.99, wrong, str(n), str(n // 5))
            for n, wrong in enumerate(np.repeat(draw.random(80) < 0.055, 5).tolist())
        ]
        broken += bound_on_wrong(labels, 0.05) <= 0.05
        naive += upper_bound(sum(label.wrong for label in labels), 400, 0.05) <= 0.05
    assert naive > 100 > 0.05 * 1000 + 3 * np.sqrt(0.05 * 0.95 * 1000) > broken
