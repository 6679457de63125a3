"""The front: what it holds nothing beats, and what it leaves out something beats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.report.pareto import front

DIRECTIONS = {"speed": "higher", "loss": "lower"}
points = st.tuples(st.integers(0, 6), st.integers(0, 6))


def measured(speed: float, loss: float) -> Measurement:
    return collect("x", [Quantity("speed", speed, "tokens/s", "higher"), Quantity("loss", loss, "nats", "lower")])


def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and one[0] >= other[0] and one[1] <= other[1]


@given(st.lists(points, min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(found: list[tuple[int, int]]) -> None:
    held = front([measured(*point) for point in found], DIRECTIONS)
    assert held
    assert held == [i for i, point in enumerate(found) if not any(beats(other, point) for other in found)]


@given(st.lists(points, min_size=1, max_size=12))
def test_what_is_left_out_is_beaten_by_something_on_the_front(found: list[tuple[int, int]]) -> None:
    held = front([measured(*point) for point in found], DIRECTIONS)
    for index in set(range(len(found))) - set(held):
        assert any(beats(found[i], found[index]) for i in held)


def test_directions_decide_what_better_means() -> None:
    found = [measured(1, 1), measured(2, 2), measured(2, 3)]
    assert front(found, DIRECTIONS) == [0, 1]
    assert front(found, {"speed": "higher"}) == [1, 2]
    assert front(found, {"loss": "higher"}) == [2]


def test_what_lacks_a_quantity_takes_no_part() -> None:
    partial = collect("x", [Quantity("speed", 99, "tokens/s", "higher")])
    assert front([partial, measured(1, 1)], DIRECTIONS) == [1]
    assert front([partial], DIRECTIONS) == []
    assert front([], DIRECTIONS) == []
