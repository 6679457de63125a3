"""Logits to a token, for runtimes that return logits: greedy, or temperature and nucleus with a seed per request."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from pennyweight.generation import Generation

Logits = NDArray[np.float32]


class Sampler:
    """Draws the tokens of one generation. The same seed and logits give the same tokens, whatever else is running."""

    def __init__(self, generation: Generation) -> None:
        self._temperature, self._top_p = generation.temperature, generation.top_p
        self._top_logprobs = generation.top_logprobs
        self._random = random.Random(generation.seed)

    def draw(self, logits: Logits, allowed: Logits | None = None) -> tuple[int, float, list[tuple[int, float]]]:
        """One row of logits -> token, its log-probability (0 unless requested), and the requested alternatives. The
        token is drawn from `allowed`, the same logits with -inf for what may not follow."""
        drawn_from = logits if allowed is None else allowed
        token = int(drawn_from.argmax()) if self._temperature == 0 else self._sample(drawn_from)
        if self._top_logprobs is None:
            return token, 0.0, []
        logprobs = log_softmax(logits)
        return token, float(logprobs[token]), most_likely(logprobs[None], self._top_logprobs)[0]

    def _sample(self, logits: Logits) -> int:
        """Nucleus sampling (Holtzman et al. 2020, arxiv.org/abs/1904.09751): the cumulative distribution, inverted."""
        logprobs = log_softmax(logits / max(self._temperature, 1e-5))
        order = np.argsort(-logprobs)
        cumulative = np.cumsum(np.exp(logprobs[order], dtype=np.float64))
        kept = int(np.searchsorted(cumulative, self._top_p)) + 1 if self._top_p < 1 else len(order)
        kept = min(kept, len(order))
        point = self._random.random() * cumulative[kept - 1]
        return int(order[min(int(np.searchsorted(cumulative[:kept], point, side="right")), kept - 1)])


def most_likely(logprobs: Logits, count: int) -> list[list[tuple[int, float]]]:
    """The `count` likeliest tokens of each row (n, vocabulary) with their log-probabilities, the likeliest first."""
    if count == 0:
        return [[] for _ in logprobs]
    count = min(count, logprobs.shape[-1])
    best = np.argpartition(logprobs, -count, axis=-1)[:, -count:]
    values = np.take_along_axis(logprobs, best, axis=-1)
    order = np.argsort(-values, axis=-1, kind="stable")
    tokens = np.take_along_axis(best, order, axis=-1).tolist()
    ranked = np.take_along_axis(values, order, axis=-1).tolist()
    return [list(zip(row, row_values, strict=True)) for row, row_values in zip(tokens, ranked, strict=True)]


def log_softmax(logits: Logits) -> Logits:
    """Over the last axis, in float32."""
    shifted = np.asarray(logits - logits.max(axis=-1, keepdims=True), dtype=np.float32)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
