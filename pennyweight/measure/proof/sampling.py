"""Part 6, for requests that ask for sampling: are the candidate's sampled answers distributed as the reference's?

Greedy answers and scores do not see a sampler that ignores temperature, top_p or the seed. A two-sample test does:
maximum mean discrepancy with a Hamming kernel over the tokens of answers to the same prompt, its p-value by permutation
within each prompt (Gao, Liang & Guestrin 2024, "Model Equality Testing", arxiv.org/abs/2410.20247).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pennyweight.budget import MIN_P_VALUE
from pennyweight.evidence import Part
from pennyweight.measure.proof.pair import Pair
from pennyweight.measure.proof.part import Row
from pennyweight.measurement import Quantity

SAMPLES = 4  # answers to each request that asks for sampling, on each side
LENGTH = 32  # tokens that are compared
PERMUTATIONS = 999
Answers = Sequence[tuple[int, ...]]


def judge(pairs: Sequence[Pair]) -> list[Row]:
    """A small p-value: answers so different would be rare if both were distributed alike."""
    if not decides(pairs):
        return []
    kept = [(p.reference.samples, p.samples) for p in pairs if p.reference.samples and any(p.samples)]
    value, p_value = discrepancy(kept)
    return [
        Row(Part.TASKS, Quantity("sampled_discrepancy", value, "1", "lower")),
        Row(
            Part.TASKS,
            Quantity("sampled_p_value", p_value, "1", "higher"),
            "sampled answers are distributed otherwise than the reference's",
        ),
    ]


def decides(pairs: Sequence[Pair]) -> bool:
    """Could these samples ever show a difference? Of one prompt with four answers on each side, 2 of 70 orders are as
    extreme as any, which is no proof."""
    reachable = 1.0
    for pair in pairs:
        if pair.reference.samples and any(pair.samples):
            ours, theirs = len(pair.reference.samples), len(pair.samples)
            reachable *= 2 / math.comb(ours + theirs, ours)
    return reachable < MIN_P_VALUE / 2


def discrepancy(prompts: Sequence[tuple[Answers, Answers]], seed: int = 0) -> tuple[float, float]:
    """Mean squared discrepancy over the prompts, and its p-value."""
    generator = np.random.default_rng(seed)
    kernels = [(_kernel([*ours, *theirs]), len(ours)) for ours, theirs in prompts]
    seen = float(np.mean([_squared(kernel, np.arange(len(kernel)), count) for kernel, count in kernels]))
    at_least = 1
    for _ in range(PERMUTATIONS):
        drawn = [_squared(kernel, generator.permutation(len(kernel)), count) for kernel, count in kernels]
        at_least += float(np.mean(drawn)) >= seen - 1e-12
    return seen, at_least / (PERMUTATIONS + 1)


def _kernel(answers: Answers) -> NDArray[np.float64]:
    """Share of the places at which two answers have the same token."""
    rows = np.full((len(answers), LENGTH), -1, dtype=np.int64)
    for row, tokens in zip(rows, answers, strict=True):
        row[: len(tokens[:LENGTH])] = tokens[:LENGTH]
    same: NDArray[np.float64] = (rows[:, None] == rows[None]).mean(axis=-1)
    return same


def _squared(kernel: NDArray[np.float64], order: NDArray[np.int64], count: int) -> float:
    """The unbiased estimate, with the first `count` of this order as one sample and the others as the other."""
    first, second = order[:count], order[count:]
    ours, theirs = kernel[np.ix_(first, first)], kernel[np.ix_(second, second)]
    return float(_off_diagonal(ours) + _off_diagonal(theirs) - 2 * kernel[np.ix_(first, second)].mean())


def _off_diagonal(square: NDArray[np.float64]) -> float:
    count = len(square)
    return float((square.sum() - np.trace(square)) / (count * (count - 1))) if count > 1 else 0.0
