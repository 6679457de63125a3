"""Which finalist comes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pennyweight.search import TIE, ranked

LOSS = {"fine": 0, "coarse": 1, "coarsest": 2}


def test_a_tie_goes_to_what_loses_least() -> None:
    assert ranked({"coarsest": 100.0, "fine": 98.0, "coarse": 99.0}, LOSS.__getitem__) == ["fine", "coarse", "coarsest"]


def test_a_clear_win_is_no_tie() -> None:
    assert ranked({"coarse": 100.0, "fine": 90.0}, LOSS.__getitem__) == ["coarse", "fine"]


def test_lower_is_better_scores_are_negative() -> None:
    assert ranked({"coarse": -1.00, "fine": -1.02, "coarsest": -0.5}, LOSS.__getitem__) == [
        "coarsest",
        "fine",
        "coarse",
    ]


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(1.0, 1000.0), min_size=1))
def test_each_is_named_once_and_none_is_passed_by_a_worse_one_than_a_tie(means: dict[str, float]) -> None:
    order = ranked(means, str)
    assert sorted(order) == sorted(means)
    for place, name in enumerate(order):
        assert means[name] >= TIE * max(means[later] for later in order[place:])
