"""Logits to a token, for runtimes that return logits: biases and penalties, then greedy, or temperature, minimum
probability, the k likeliest and nucleus, in vLLM's order and with a seed per request."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from pennyweight.generation import Generation

Logits = NDArray[np.float32]


class Sampler:
    """Draws the tokens of one generation. The same seed and logits give the same tokens, whatever else is running."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._random = random.Random(generation.seed)
        self._made: Counter[int] = Counter()
        self._count = 0
        counts = generation.presence_penalty or generation.frequency_penalty or generation.repetition_penalty != 1
        self._adjusts = bool(counts or generation.logit_bias or generation.min_tokens)
        self._prompt = (
            np.unique(np.asarray(generation.prompt, np.int64)) if generation.repetition_penalty != 1 else None
        )

    @property
    def greedy(self) -> bool:
        """Is the likeliest token taken as it is?"""
        return self._generation.temperature == 0 and not self._adjusts

    def draw(self, logits: Logits, allowed: Logits | None = None) -> tuple[int, float, list[tuple[int, float]]]:
        """One row of logits -> token, its log-probability (0 unless requested), and the requested alternatives. The
        token is drawn from `allowed`, the same logits with -inf for what may not follow. Log-probabilities are the
        model's own, before biases and penalties."""
        drawn_from = logits if allowed is None else allowed
        if self._adjusts:
            drawn_from = self._adjusted(drawn_from)
        token = int(drawn_from.argmax()) if self._generation.temperature == 0 else self._sample(drawn_from)
        if self._adjusts:
            self._made[token] += 1
            self._count += 1
        return self.reported(token, logits)

    def reported(self, token: int, logits: Logits) -> tuple[int, float, list[tuple[int, float]]]:
        """A token that has been chosen, as `draw` returns it."""
        if self._generation.top_logprobs is None:
            return token, 0.0, []
        logprobs = log_softmax(logits)
        return token, float(logprobs[token]), most_likely(logprobs[None], self._generation.top_logprobs)[0]

    def _adjusted(self, logits: Logits) -> Logits:
        """With biases, penalties and the shortest length."""
        asked, made = self._generation, logits.copy()
        size = len(made)
        for token, bias in asked.logit_bias:
            if token < size:
                made[token] += bias
        tokens = np.fromiter(self._made, np.int64, len(self._made))
        if self._prompt is not None:
            seen = np.union1d(self._prompt, tokens)
            seen = seen[seen < size]
            ratio = np.float32(asked.repetition_penalty)
            made[seen] = np.where(made[seen] > 0, made[seen] / ratio, made[seen] * ratio)
        if len(tokens) and (asked.presence_penalty or asked.frequency_penalty):
            counts = np.fromiter(self._made.values(), np.float32, len(tokens))
            made[tokens] -= asked.presence_penalty + asked.frequency_penalty * counts
        if self._count < asked.min_tokens:
            ends = [token for token in asked.stop_tokens if token < size]
            kept = made[ends]
            made[ends] = -np.inf
            if not np.isfinite(made).any():  # a form whose whole answer is shorter
                made[ends] = kept
        return made

    def _sample(self, logits: Logits) -> int:
        """Nucleus sampling (Holtzman et al. 2020, arxiv.org/abs/1904.09751): the cumulative distribution, inverted.
        min_p keeps what has that share of the likeliest token's probability (Nguyen et al. 2024,
        arxiv.org/abs/2407.01082)."""
        asked = self._generation
        logprobs = log_softmax(logits / max(asked.temperature, 1e-5))
        order = np.argsort(-logprobs)
        shares = np.exp(logprobs[order], dtype=np.float64)
        if asked.min_p > 0:
            shares = shares[: max(1, int((shares >= asked.min_p * shares[0]).sum()))]
        if asked.top_k > 0:
            shares = shares[: asked.top_k]
        cumulative = np.cumsum(shares)
        wanted = asked.top_p * (cumulative[-1] if len(shares) < len(order) else 1)
        kept = int(np.searchsorted(cumulative, wanted)) + 1 if asked.top_p < 1 else len(shares)
        kept = min(kept, len(shares))
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
