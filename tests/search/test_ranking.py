"""Which finalist comes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pennyweight.search.screening import TIE, ranked

PREFERENCE = {"small": 0, "middle": 1, "large": 2}


def test_a_tie_goes_to_what_is_preferred() -> None:
    assert ranked({"large": 100.0, "small": 98.0, "middle": 99.0}, PREFERENCE.__getitem__) == [
        "small",
        "middle",
        "large",
    ]


def test_a_clear_win_is_no_tie() -> None:
    assert ranked({"middle": 100.0, "small": 90.0}, PREFERENCE.__getitem__) == ["middle", "small"]


def test_lower_is_better_scores_are_negative() -> None:
    assert ranked({"middle": -1.00, "small": -1.02, "large": -0.5}, PREFERENCE.__getitem__) == [
        "large",
        "small",
        "middle",
    ]


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(1.0, 1000.0), min_size=1))
def test_each_is_named_once_and_none_is_passed_by_a_worse_one_than_a_tie(means: dict[str, float]) -> None:
    order = ranked(means, str)
    assert sorted(order) == sorted(means)
    for place, name in enumerate(order):
        assert means[name] >= TIE * max(means[later] for later in order[place:])
