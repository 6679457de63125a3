"""How near two questions are by an embedding: as wholes, and word by word."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pennyweight.embedding import Reading
from pennyweight.similarity.words import FILLER

LEAST_MET = 2  # words
PIECE = "##"  # begins a part of a word, as WordPiece spells it


@dataclass(frozen=True)
class Closeness:
    """The cosine of both, and how well each word of one is met by the best of the other: on average, and of the two
    words that are met least; of both directions, the worse one first."""

    cosine: float
    mean: tuple[float, float]
    least: tuple[float, float]


def closeness(first: Reading, second: Reading) -> Closeness:
    similar = first.states @ second.states.T
    one, other = _met(first, similar.max(1, initial=0.0)), _met(second, similar.max(0, initial=0.0))
    (mean, least), (its_mean, its_least) = one, other
    cosine = float(first.vector @ second.vector)
    return Closeness(cosine, (min(mean, its_mean), max(mean, its_mean)), (min(least, its_least), max(least, its_least)))


def _met(reading: Reading, best: np.ndarray) -> tuple[float, float]:
    """Of the words that carry meaning: the mean, and the mean of the least."""
    kept = [n for n, token in enumerate(reading.tokens) if _means(token)]
    if not kept:
        return 1.0, 1.0
    rows = np.sort(best[kept])
    return float(rows.mean()), float(rows[:LEAST_MET].mean())


def _means(token: str) -> bool:
    return token.startswith(PIECE) or (token[:1].isalnum() and token.lower() not in FILLER)
