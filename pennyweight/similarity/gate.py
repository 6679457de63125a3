"""The gate: how likely two questions have the same answer. Numbers about both (how near they are, what speaks against
it) go through a small model of boosted trees, which can only fall where a number speaks more against it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight import codec
from pennyweight.errors import StorageError
from pennyweight.similarity import differences
from pennyweight.similarity.closeness import Closeness
from pennyweight.similarity.differences import Question
from pennyweight.similarity.words import unmatched

Floats = NDArray[np.float64]
SHIPPED = "gate.json"
FOR, AGAINST, EITHER = 1, -1, 0
FEATURES = {  # name -> what a larger number says
    "cosine": FOR,
    "mean alignment": FOR,
    "least alignment": FOR,
    "better least alignment": FOR,
    "overlap": FOR,
    "nothing unmatched": FOR,
    "cosine and overlap": FOR,
    "fewer unmatched words": AGAINST,
    "more unmatched words": AGAINST,
    "one word replaced": AGAINST,
    "words added": AGAINST,
    "numbers": AGAINST,
    "dates": AGAINST,
    "codes": AGAINST,
    "negation": AGAINST,
    "negation and overlap": AGAINST,
    "opposites": AGAINST,
    "names": AGAINST,
    "people": AGAINST,
    "order": AGAINST,
    "language": AGAINST,
    "guards": AGAINST,
    "question word": EITHER,
    "length": EITHER,
}
MOST_UNMATCHED, MOST_GUARDS = 5, 3
ROUNDS, RATE, LEAVES, LEAST_IN_A_LEAF, SMALLEST_HESSIAN = 150, 0.06, 6, 8, 1e-3


@dataclass(frozen=True)
class Tree:
    """A node is a row of the five lists; a leaf has feature -1. A row goes left where its feature is at most the
    threshold."""

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]


@dataclass(frozen=True)
class Gate:
    """`prior` and the trees add up to log-odds. `features` are the names that it was fitted with, `fitted_on` says on
    what."""

    prior: float
    trees: tuple[Tree, ...]
    features: tuple[str, ...] = tuple(FEATURES)
    fitted_on: str = ""

    def scores(self, rows: Floats) -> Floats:
        """(pairs, features) -> (pairs,), the probability that both questions have the same answer, as far as the pairs
        that it was fitted on were like these."""
        return np.asarray(1 / (1 + np.exp(-self.log_odds(rows))))

    def log_odds(self, rows: Floats) -> Floats:
        return np.asarray(self.prior + self._forest.values(rows).sum(1))

    @cached_property
    def _forest(self) -> Forest:
        return Forest(self.trees)


class Forest:
    """Several trees, walked through together."""

    def __init__(self, trees: Sequence[Tree]) -> None:
        most = max((len(tree.feature) for tree in trees), default=1)

        def stacked(name: str, filler: float) -> Floats:
            rows = [[*getattr(tree, name), *[filler] * (most - len(tree.feature))] for tree in trees]
            return np.array(rows, np.float64).reshape(len(trees), most)

        self._feature, self._left, self._right = (
            stacked(name, -1).astype(np.int64) for name in ("feature", "left", "right")
        )
        self._threshold, self._value = stacked("threshold", 0.0), stacked("value", 0.0)

    def values(self, rows: Floats) -> Floats:
        """(pairs, features) -> (pairs, trees)."""
        trees = np.arange(len(self._feature))[None, :]
        at = np.zeros((len(rows), len(self._feature)), np.int64)
        while True:
            feature = self._feature[trees, at]
            inner = feature >= 0
            if not inner.any():
                return np.asarray(self._value[trees, at])
            low = np.take_along_axis(rows, np.maximum(feature, 0), 1) <= self._threshold[trees, at]
            at = np.where(inner, np.where(low, self._left[trees, at], self._right[trees, at]), at)


def features_of(first: Question, second: Question, near: Closeness) -> list[float]:
    """One number for each of `FEATURES`."""
    mine, its = unmatched(first.content, second.content), unmatched(second.content, first.content)
    fewer, more = sorted((len(set(mine)), len(set(its))))
    whole = len(set(first.content)) + len(set(second.content))
    overlap = 1 - (fewer + more) / whole if whole else 1.0
    negated = differences.negation(first, second)
    opposed = differences.opposites(first, second)
    numbers, dates = differences.other_numbers(first, second), differences.other_dates(first, second)
    names, order = differences.other_names(first, second), differences.other_order(first, second)
    guards = numbers + dates + negated + min(1, opposed) + min(1, names) + min(1, order)
    lengths = sorted((len(first.words), len(second.words)))
    return [
        near.cosine,
        near.mean[0],
        near.least[0],
        near.least[1],
        overlap,
        float(more == 0),
        near.cosine * overlap,
        float(min(MOST_UNMATCHED - 1, fewer)),
        float(min(MOST_UNMATCHED, more)),
        float(fewer == more == 1),
        float(fewer == 0 < more),
        float(numbers),
        float(dates),
        float(differences.other_codes(first, second)),
        float(negated),
        negated * overlap,
        float(opposed),
        float(names),
        float(differences.other_people(first, second)),
        float(order),
        float(differences.other_language(first, second)),
        float(min(MOST_GUARDS, guards)),
        float(differences.other_question(first, second)),
        (lengths[1] - lengths[0]) / max(1, lengths[1]),
    ]


def fit_gate(rows: Floats, same: Floats, weights: Floats, *, fitted_on: str) -> Gate:
    """Newton boosting of the logistic loss (Friedman 2001, doi.org/10.1214/aos/1013203451) by trees that are monotone
    in what `FEATURES` says. rows: (pairs, features); same, weights: (pairs,)."""
    share = float(np.clip(np.average(same, weights=weights), 1e-3, 1 - 1e-3))
    prior = float(np.log(share / (1 - share)))
    trees = boosted(rows, same, weights, np.full(len(rows), prior), ROUNDS)
    return Gate(prior, tuple(trees), fitted_on=fitted_on)


def boosted(rows: Floats, same: Floats, weights: Floats, begun: Floats, rounds: int) -> list[Tree]:
    """Trees that are added to the log-odds `begun` (pairs,)."""
    from sklearn.tree import DecisionTreeRegressor

    total, trees = begun.copy(), list[Tree]()
    for number in range(rounds):
        chance = 1 / (1 + np.exp(-total))
        hessian = np.maximum(chance * (1 - chance), SMALLEST_HESSIAN)
        grown = DecisionTreeRegressor(
            max_leaf_nodes=LEAVES,
            min_samples_leaf=LEAST_IN_A_LEAF,
            monotonic_cst=list(FEATURES.values()),
            random_state=number,
        ).fit(rows, (same - chance) / hessian, sample_weight=weights * hessian)
        trees.append(_tree(grown.tree_))
        total += Forest(trees[-1:]).values(rows)[:, 0]
    return trees


def _tree(grown: Any) -> Tree:
    return Tree(
        tuple(int(one) if one >= 0 else -1 for one in grown.feature),
        tuple(round(float(one), 6) for one in grown.threshold),
        tuple(int(one) for one in grown.children_left),
        tuple(int(one) for one in grown.children_right),
        tuple(round(RATE * float(one), 6) for one in grown.value[:, 0, 0]),
    )


def shipped_gate() -> Gate:
    """Fitted on pairs of questions from customer support, consumer law, travel and computing."""
    return read_gate(resources.files(__package__).joinpath(SHIPPED).read_text(encoding="utf-8"), SHIPPED)


def read_gate(text: str, where: str) -> Gate:
    """Raises `StorageError` for a gate of other features than this release computes."""
    gate: Gate = codec.value_of(Gate, json.loads(text), where)
    if gate.features != tuple(FEATURES):
        raise StorageError(f"{where} was fitted on other features than this release has: fit it again.")
    return gate


def judged(gate: Gate, pairs: Sequence[tuple[Question, Question, Closeness]]) -> tuple[Floats, Floats]:
    """(pairs,) scores, 0 where a veto makes it another question, and the rows (pairs, features) that they are of."""
    vetoes = np.array([differences.vetoed(first, second) for first, second, _ in pairs], bool)
    rows = rows_of(pairs)
    return np.where(vetoes, 0.0, gate.scores(rows)), rows


def rows_of(pairs: Sequence[tuple[Question, Question, Closeness]]) -> Floats:
    return np.array([features_of(*pair) for pair in pairs], np.float64).reshape(len(pairs), len(FEATURES))
