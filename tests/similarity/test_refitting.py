"""The gate fitted to a service's own labels: better on labels that it has not seen, or left as it is."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.errors import UsageError
from pennyweight.similarity.gate import FEATURES, shipped_gate
from pennyweight.similarity.refitting import refit

NAMES = list(FEATURES)


def pairs(count: int, seed: int = 0) -> np.ndarray:
    """Near pairs without a guard, of which some have one more word."""
    draws = np.random.default_rng(seed)
    rows = np.zeros((count, len(NAMES)))
    for name in ("cosine", "mean alignment", "least alignment", "better least alignment", "overlap"):
        rows[:, NAMES.index(name)] = draws.uniform(0.85, 1.0, count)
    rows[:, NAMES.index("words added")] = draws.integers(0, 2, count)
    return rows


def test_what_is_wrong_here_is_learnt() -> None:
    rows = pairs(400)
    added = rows[:, NAMES.index("words added")]
    found = refit(shipped_gate(), rows, 1 - added)  # an added word always asks for something else here
    assert found.better and found.after < 0.7 * found.before
    fresh = pairs(50, seed=1)
    scores, told = found.gate.scores(fresh), fresh[:, NAMES.index("words added")]
    assert scores[told == 1].max() < scores[told == 0].min()
    assert "labels of its own traffic" in found.gate.fitted_on


def test_chance_teaches_nothing_that_is_kept() -> None:
    draws, gate, rows = np.random.default_rng(3), shipped_gate(), pairs(400)
    same = (draws.random(400) < gate.scores(rows)).astype(float)  # just as the shipped gate says
    same[:10], same[10:20] = 0, 1
    found = refit(gate, rows, same)
    assert not found.better or found.after > 0.95 * found.before


@pytest.mark.parametrize("same", [np.ones(300), np.zeros(300), np.ones(50)])
def test_too_few_labels_are_refused(same: np.ndarray) -> None:
    with pytest.raises(UsageError, match="takes 200, and 10 each"):
        refit(shipped_gate(), pairs(len(same)), same)
