"""Sampler: greedy, nucleus and temperature, seeds and log-probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.engines.batching.sampling import Sampler, log_softmax
from pennyweight.generation import Generation, derived_seed

rows = st.lists(st.integers(-400, 400), min_size=2, max_size=40, unique=True).map(
    lambda values: np.array(values, dtype=np.float32) / 20
)


def sampler(**wanted: Any) -> Sampler:
    return Sampler(Generation("g", (1,), 8, **wanted))


@given(logits=rows)
def test_temperature_zero_takes_the_most_likely_token(logits: np.ndarray) -> None:
    assert sampler(seed=3).draw(logits)[0] == int(np.argmax(logits))


@given(logits=rows, seed=st.integers(0, 2**31))
def test_a_tiny_nucleus_is_greedy(logits: np.ndarray, seed: int) -> None:
    assert sampler(temperature=1.0, top_p=1e-6, seed=seed).draw(logits)[0] == int(np.argmax(logits))


@given(logits=rows, seed=st.integers(-(2**62), 2**62))
def test_the_same_seed_and_logits_give_the_same_tokens(logits: np.ndarray, seed: int) -> None:
    one, other = (sampler(temperature=1.0, seed=seed) for _ in range(2))
    assert [one.draw(logits)[0] for _ in range(10)] == [other.draw(logits)[0] for _ in range(10)]


def test_another_seed_gives_other_tokens() -> None:
    logits = np.zeros(100, dtype=np.float32)
    draws = [[s.draw(logits)[0] for _ in range(20)] for s in (sampler(temperature=1.0, seed=n) for n in (1, 2))]
    assert draws[0] != draws[1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_tempered_distribution(temperature: float) -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0], dtype=np.float32)
    source = sampler(temperature=temperature, seed=11)
    counts = np.bincount([source.draw(logits)[0] for _ in range(8000)], minlength=4) / 8000
    assert counts == pytest.approx(np.exp(log_softmax(logits / temperature)), abs=0.02)


def test_the_nucleus_leaves_the_tail_out_and_keeps_the_rest_in_proportion() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    source = sampler(temperature=1.0, top_p=0.7, seed=5)
    counts = np.bincount([source.draw(logits)[0] for _ in range(8000)], minlength=4) / 8000
    assert counts == pytest.approx([0.625, 0.375, 0, 0], abs=0.02)
    assert counts[2] == counts[3] == 0


@given(logits=rows, count=st.integers(0, 2))
def test_top_logprobs_are_so_many_and_the_best_first(logits: np.ndarray, count: int) -> None:
    token, logprob, top = sampler(top_logprobs=count).draw(logits)
    expected = log_softmax(logits)
    assert [p for _, p in top] == pytest.approx(sorted(expected.tolist(), reverse=True)[:count])
    assert all(expected[t] == pytest.approx(p) for t, p in top)
    assert logprob == pytest.approx(float(expected[token]))


def test_no_logprobs_are_made_where_none_were_asked_for() -> None:
    assert sampler().draw(np.array([0.0, 1.0], dtype=np.float32)) == (1, 0.0, [])


def test_huge_logits_do_not_overflow() -> None:
    assert log_softmax(np.array([1e30, 0.0], dtype=np.float32))[0] == 0.0
    assert sampler(temperature=1.0, seed=1).draw(np.array([1e30, 0.0], dtype=np.float32))[0] == 0


def test_a_derived_seed_is_the_requests_own_and_fits_a_library() -> None:
    assert derived_seed(Generation("g", (1,), 1, seed=7)) == 7
    assert all(0 <= derived_seed(Generation("g", (1,), 1, seed=s)) < 2**31 for s in (-1, 2**63 - 1, None))
    assert len({derived_seed(Generation("g", (1,), 1)) for _ in range(20)}) > 1


LOGITS = np.array([3.0, 2.0, 1.0, 0.0, -1.0], dtype=np.float32)


def drawn(count: int, **wanted: Any) -> list[int]:
    source = sampler(**wanted)
    return [source.draw(LOGITS)[0] for _ in range(count)]


def test_a_bias_moves_the_choice_and_bans_a_token() -> None:
    assert drawn(1, logit_bias=((3, 100.0),)) == [3]
    assert 0 not in drawn(200, temperature=1.0, seed=1, logit_bias=((0, -100.0),))


def test_penalties_count_what_the_answer_holds() -> None:
    assert drawn(3, presence_penalty=1.5) == [0, 1, 0]  # 3-1.5 < 2; then both are lowered once
    assert drawn(4, frequency_penalty=1.2) == [0, 1, 0, 2]


def test_a_repetition_penalty_counts_the_prompt_too() -> None:
    asked = Generation("g", (0,), 8, repetition_penalty=2.0)
    assert Sampler(asked).draw(LOGITS)[0] == 1
    negative = Sampler(Generation("g", (0,), 8, repetition_penalty=2.0))
    assert negative.draw(np.array([-1.0, -1.5], dtype=np.float32))[0] == 1  # below zero it is multiplied


def test_no_end_token_comes_before_the_shortest_length() -> None:
    asked = sampler(min_tokens=2, stop_tokens=(0,))
    assert [asked.draw(LOGITS)[0] for _ in range(3)] == [1, 1, 0]
    only_ends = np.array([1.0, -np.inf], dtype=np.float32)
    assert sampler(min_tokens=2, stop_tokens=(0,)).draw(LOGITS[:2], only_ends)[0] == 0


def test_the_k_likeliest_and_a_least_share_cut_the_tail() -> None:
    assert set(drawn(300, temperature=2.0, seed=3, top_k=2)) == {0, 1}
    assert set(drawn(300, temperature=1.0, seed=3, min_p=0.3)) == {0, 1}  # e^-1 is 0.37, e^-2 is 0.14
    assert set(drawn(300, temperature=2.0, seed=3)) == {0, 1, 2, 3, 4}


def test_log_probabilities_are_the_models_own_whatever_is_asked() -> None:
    source = sampler(logit_bias=((3, 100.0),), top_logprobs=1)
    token, logprob, tops = source.draw(LOGITS)
    assert (token, tops[0][0]) == (3, 0) and logprob == pytest.approx(float(log_softmax(LOGITS)[3]))
