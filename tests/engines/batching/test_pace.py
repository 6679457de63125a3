"""Speculation is used where it is measured to be faster, by the number of rows."""

from __future__ import annotations

from pennyweight.engines.batching.pace import AGAIN, EVERY, TRIED, Pace


def run(pace: Pace, rows: int, steps: int, *, with_it: float, without: float) -> list[bool]:
    """Steps that yield this many tokens a second."""
    chosen = []
    for _ in range(steps):
        speculated = pace.speculates(rows)
        chosen.append(speculated)
        pace.take(rows, speculated=speculated, tokens=rows, seconds=rows / (with_it if speculated else without))
    return chosen


def test_both_are_tried_and_the_faster_one_stays() -> None:
    chosen = run(Pace(), 4, 200, with_it=150.0, without=100.0)
    assert chosen[: 2 * TRIED].count(True) == TRIED
    assert chosen[2 * TRIED :].count(False) <= 2 * (200 // EVERY) * AGAIN
    chosen = run(Pace(), 4, 200, with_it=80.0, without=100.0)
    assert chosen[2 * TRIED :].count(True) <= 2 * (200 // EVERY) * AGAIN


def test_a_load_that_changes_is_noticed() -> None:
    pace = Pace()
    run(pace, 4, 200, with_it=150.0, without=100.0)
    later = run(pace, 4, 400, with_it=50.0, without=100.0)
    assert later[-EVERY // 2 :].count(True) <= AGAIN


def test_each_number_of_rows_has_its_own_answer() -> None:
    pace = Pace()
    run(pace, 2, 100, with_it=150.0, without=100.0)
    run(pace, 16, 100, with_it=50.0, without=100.0)
    assert pace.speculates(2) and not pace.speculates(16)
