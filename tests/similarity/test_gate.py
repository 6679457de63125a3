"""The gate: monotone in what speaks for and against, the same when it is read again, and right on clear cases."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight import codec
from pennyweight.errors import StorageError
from pennyweight.similarity.closeness import Closeness
from pennyweight.similarity.differences import Question
from pennyweight.similarity.gate import AGAINST, FEATURES, FOR, Gate, features_of, fit_gate, read_gate, shipped_gate

GATE = shipped_gate()
NEAR = Closeness(0.95, (0.9, 0.92), (0.8, 0.85))
rows = st.lists(st.floats(0, 5), min_size=len(FEATURES), max_size=len(FEATURES))


@given(rows, st.integers(0, len(FEATURES) - 1), st.floats(0, 5))
def test_a_score_only_falls_with_what_speaks_against(row: list[float], place: int, more: float) -> None:
    sign = list(FEATURES.values())[place]
    changed = [*row]
    changed[place] += more
    before, after = GATE.scores(np.array([row, changed]))
    if sign == FOR:
        assert after >= before - 1e-9
    if sign == AGAINST:
        assert after <= before + 1e-9


def test_a_repetition_scores_above_its_traps() -> None:
    def score(first: str, second: str) -> float:
        return float(GATE.scores(np.array([features_of(Question(first), Question(second), NEAR)]))[0])

    right = score("How do I lock my card?", "how do I lock my card please")
    assert right > 0.8
    for trap in ("How do I unlock my card?", "How do I lock my 2 cards?", "How do I not lock my card?"):
        assert score("How do I lock my card?", trap) < right


def test_it_is_fitted_and_read_again() -> None:
    draw = np.random.default_rng(0)
    found = draw.random((300, len(FEATURES)))
    same = (found[:, 0] > 0.5).astype(float)
    gate = fit_gate(found, same, np.ones(300), fitted_on="a test")
    assert ((gate.scores(found) > 0.5) == same).mean() > 0.95
    again = read_gate(json.dumps(codec.plain(gate)), "a test")
    assert again == gate and np.allclose(again.scores(found), gate.scores(found))
    with pytest.raises(StorageError, match="other features"):
        read_gate(json.dumps(codec.plain(Gate(0.0, (), ("cosine",)))), "a test")
