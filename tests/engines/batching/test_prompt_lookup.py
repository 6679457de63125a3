"""PromptLookup: what followed the last tokens when they stood there before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pennyweight.engines.batching.prompt_lookup import PromptLookup


def lookup(tokens: list[int], longest: int = 3) -> PromptLookup:
    made = PromptLookup(longest)
    made.extend(tokens)
    return made


def test_it_guesses_what_followed_last_time() -> None:
    assert lookup([1, 2, 3, 4, 5, 1, 2, 3]).propose(2) == [4, 5]
    assert lookup([1, 2, 3, 4, 5, 1, 2, 3]).propose(9) == [4, 5, 1, 2, 3]


def test_the_latest_place_and_the_longest_run_win() -> None:
    assert lookup([7, 8, 1, 7, 8, 2, 7, 8]).propose(1) == [2]
    assert lookup([5, 7, 8, 1, 6, 7, 8, 2, 5, 7, 8]).propose(1) == [1]


def test_new_text_gives_no_guess() -> None:
    assert lookup([]).propose(4) == lookup([1]).propose(4) == lookup([1, 2, 3, 4]).propose(4) == []
    assert lookup([1, 2, 1]).propose(4) == []  # a single token says too little
    assert lookup([1, 2, 1], longest=1).propose(4) == [2, 1]
    assert lookup([1, 2, 1, 2]).propose(0) == []


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 4), st.integers(0, 6))
def test_it_agrees_with_looking_everything_up(tokens: list[int], longest: int, most: int) -> None:
    expected: list[int] = []
    for size in range(longest, min(longest, 2) - 1, -1):
        ends = [n for n in range(size, len(tokens)) if tokens[n - size : n] == tokens[len(tokens) - size :]]
        if size <= len(tokens) and ends:
            expected = tokens[ends[-1] : ends[-1] + most]
            break
    assert lookup(tokens, longest).propose(most) == expected
