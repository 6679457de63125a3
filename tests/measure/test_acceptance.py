"""How far a draft guesses ahead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pennyweight.measure.acceptance import accepted_lengths


def test_guesses_in_a_row_and_one_more() -> None:
    assert accepted_lengths([True, True, False, True, True, True, True], 2) == [3, 3, 1]
    assert accepted_lengths([False] * 3, 4) == [1, 1, 1]
    assert accepted_lengths([True] * 10, 4) == [5, 5]
    assert accepted_lengths([], 4) == []


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 8))
def test_every_token_is_yielded_once(agreed: list[bool], guesses: int) -> None:
    lengths = accepted_lengths(agreed, guesses)
    assert sum(lengths) == len(agreed)
    assert all(1 <= length <= guesses + 1 for length in lengths)
