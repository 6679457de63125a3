"""Which replica gets a request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pennyweight.balancing import AFFINITY, choose

LOADS = st.lists(st.integers(0, 10_000), min_size=1, max_size=8)


@given(LOADS)
def test_without_a_known_prefix_the_least_busy_one(outstanding: list[int]) -> None:
    assert outstanding[choose(outstanding, [0] * len(outstanding))] == min(outstanding)


@given(LOADS, st.data())
def test_a_known_prefix_never_costs_more_than_the_affinity(outstanding: list[int], data: st.DataObject) -> None:
    size = len(outstanding)
    known = data.draw(st.lists(st.integers(0, 64), min_size=size, max_size=size))
    chosen = choose(outstanding, known)
    assert outstanding[chosen] <= min(outstanding) + AFFINITY * max(outstanding)


def test_one_that_knows_the_prefix_and_is_hardly_busier_is_preferred() -> None:
    assert choose([100, 110, 400], [0, 3, 9]) == 1
