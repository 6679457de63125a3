"""A certificate: thresholds are tested in one sequence, and what is certified holds as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.measure.certificate import Outcomes, certify, each_tested, least_kept, thresholds_of
from pennyweight.measure.proof.intervals import ratio_interval, ratio_upper_bounds
from pennyweight.mixture import Form, Limit

ERROR = 0.05


def outcomes(scores: list[float], small: list[int], large: list[int], sessions: tuple[str, ...] = ()) -> Outcomes:
    return Outcomes(np.array(scores), np.array(small, float), np.array(large, float), sessions)


def test_a_threshold_keeps_what_lies_at_it() -> None:
    assert outcomes([0.1, 0.2, 0.2, 0.3], [1] * 4, [1] * 4).kept(0.2).tolist() == [True, True, True, False]


@pytest.mark.parametrize(("share", "sessions"), [(0.01, 299), (0.02, 149), (0.05, 59)])
def test_how_many_kept_requests_without_a_loss_a_limit_needs(share: float, sessions: int) -> None:
    limit = Limit(share, "kept")
    assert least_kept(limit, ERROR) == sessions
    for count, holds in ((sessions, True), (sessions - 1, False)):
        same = outcomes([0.0] * count, [1] * count, [1] * count)
        assert (certify(same, [0.0], limit, error=ERROR).chosen is not None) == holds


@pytest.mark.parametrize(("share", "sessions"), [(0.01, 302), (0.05, 62)])
def test_how_many_requests_the_net_form_needs(share: float, sessions: int) -> None:
    assert least_kept(Limit(share), ERROR) == sessions
    for count, holds in ((int(sessions * 1.15), True), (int(sessions * 0.85), False)):
        same = outcomes([0.0] * count, [1] * count, [1] * count)
        assert (certify(same, [0.0], Limit(share), error=ERROR).chosen is not None) == holds


def test_the_sequence_ends_at_the_first_threshold_that_fails() -> None:
    """A loose threshold that would hold again by luck is not reached."""
    count = 400
    scores = np.repeat([0.0, 1.0, 2.0, 2.0], count)
    small = np.repeat([1.0, 0.0, 1.0, 1.0], count)
    large = np.repeat([1.0, 1.0, 0.0, 0.0], count)  # the second group loses all, the third gains twice as much
    whole = Outcomes(scores, small, large)
    assert [one.holds for one in each_tested(whole, [0.0, 1.0, 2.0], Limit(0.05), error=ERROR)] == [True, False, True]
    found = certify(whole, [2.0, 0.0, 1.0], Limit(0.05), error=ERROR)
    assert [one.threshold for one in found.tested] == [0.0, 1.0]
    assert found.chosen is not None and found.chosen.threshold == 0.0


def test_nothing_is_certified_where_the_strictest_fails_or_nothing_is_known() -> None:
    lost = outcomes([0.0] * 100, [0] * 100, [1] * 100)
    assert certify(lost, [0.0], Limit(0.05), error=ERROR).chosen is None
    never_right = outcomes([0.0] * 100, [0] * 100, [0] * 100)
    assert certify(never_right, [0.0], Limit(0.05), error=ERROR).chosen is None, "a large model that is never right"
    assert certify(lost, [], Limit(0.05), error=ERROR).chosen is None
    for form in ("net", "kept"):
        empty = certify(outcomes([], [], []), [0.0], Limit(0.05, form), error=ERROR)
        assert empty.chosen is None and empty.tested == ()


def test_copies_of_a_session_are_one_observation() -> None:
    alone = outcomes([0.0] * 64, [1] * 64, [1] * 64)
    copied = outcomes([0.0] * 64, [1] * 64, [1] * 64, tuple(str(n % 8) for n in range(64)))
    for form in ("net", "kept"):
        limit = Limit(0.06, form)
        assert certify(alone, [0.0], limit, error=ERROR).chosen is not None
        assert certify(copied, [0.0], limit, error=ERROR).chosen is None


@pytest.mark.parametrize("form", ["net", "kept"])
def test_a_mixture_exactly_at_the_limit_is_rarely_certified(form: Form) -> None:
    given = 0
    for seed in range(200):
        lost = np.random.default_rng(seed).random(300) < 0.05
        at_the_limit = Outcomes(np.zeros(300), np.where(lost, 0.0, 1.0), np.ones(300))
        given += certify(at_the_limit, [0.0], Limit(0.05, form), error=ERROR).chosen is not None
    assert given <= 0.05 * 200 + 3 * (0.05 * 0.95 * 200) ** 0.5


def test_a_mixture_at_half_of_the_limit_usually_is() -> None:
    given = 0
    for seed in range(40):
        lost = np.random.default_rng(seed).random(600) < 0.02
        better = Outcomes(np.zeros(600), np.where(lost, 0.0, 1.0), np.ones(600))
        given += certify(better, [0.0], Limit(0.05), error=ERROR).chosen is not None
    assert given >= 36


def test_thresholds_are_values_of_the_scores_each_once() -> None:
    assert thresholds_of(np.array([0.5] * 10)) == [0.5]
    assert thresholds_of(np.array([])) == []
    found = thresholds_of(np.arange(1000.0), least=0.5)
    assert len(found) == 100 and found[0] == 499.0 and found[-1] == 999.0 and found == sorted(found)


def test_bounds_of_many_columns_are_those_of_each() -> None:
    generator = np.random.default_rng(0)
    totals, sizes = generator.normal(size=(50, 3)), generator.random(50) + 1
    many = ratio_upper_bounds(totals, sizes, bound=3.0, error=ERROR)
    each = [ratio_interval(totals[:, n], sizes, bound=3.0, error=ERROR)[1][1] for n in range(3)]
    assert np.allclose(many, each)
