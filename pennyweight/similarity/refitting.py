"""Fits the gate to a service's own traffic: more trees on top of the shipped ones, kept only where they foretell labels
that they were not fitted on better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError
from pennyweight.similarity.gate import Floats, Gate, boosted

LEAST, LEAST_OF_A_KIND = 200, 10  # labels; right and wrong ones
FOLDS, ROUNDS = 5, 40


@dataclass(frozen=True)
class Refit:
    """`before` and `after` are the mean losses, in nats a label, of the gate that was there and of one that was fitted
    on the other folds."""

    gate: Gate
    labels: int
    wrong: int
    before: float
    after: float

    @property
    def better(self) -> bool:
        return self.after < self.before


def refit(gate: Gate, rows: Floats, same: Floats) -> Refit:
    """rows: (labels, features) of would-be hits; same: (labels,), 1 where the kept answer was right. Raises
    `UsageError` where there are too few."""
    rare = int(min(same.sum(), len(same) - same.sum()))
    if len(same) < LEAST or rare < LEAST_OF_A_KIND:
        raise UsageError(
            f"There are {len(same)} labels, {int(len(same) - same.sum())} of them wrong: fitting the gate takes "
            f"{LEAST}, and {LEAST_OF_A_KIND} each that are right and wrong. Let the service run, with "
            "--cache-similar-shadow say."
        )
    before = gate.log_odds(rows)
    after = before.copy()
    for left_out in _folds(rows):
        fitted = _more(gate, rows[~left_out], same[~left_out])
        after[left_out] = fitted.log_odds(rows[left_out])
    made = _more(gate, rows, same)
    made = replace(made, fitted_on=f"{gate.fitted_on}; {len(same)} labels of its own traffic")
    return Refit(made, len(same), int(len(same) - same.sum()), _loss(before, same), _loss(after, same))


def _more(gate: Gate, rows: Floats, same: Floats) -> Gate:
    trees = boosted(rows, same, np.ones(len(same)), gate.log_odds(rows), ROUNDS)
    return replace(gate, trees=(*gate.trees, *trees))


def _folds(rows: Floats) -> Iterator[NDArray[np.bool_]]:
    """Equal pairs are of one fold."""
    kinds = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    fold_of = np.random.default_rng(0).permutation(kinds.max() + 1) % FOLDS
    return (fold_of[kinds] == fold for fold in range(FOLDS))


def _loss(log_odds: Floats, same: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, np.where(same > 0, -log_odds, log_odds))))
