"""Cascade: the small model answers, and how sure it was of its own words decides whether the large one is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pennyweight.mixing.regression import Block, LossRegression, fit_regression

Floats = NDArray[np.float64]
UNSURE = math.log(0.5)  # a token that the model gives less than half
SIGNS = ("mean", "least", "unsure tokens", "first", "last", "length", "cut", "form broken")
LEAST = -20.0  # nats: below, a token is as unlikely as can be


@dataclass(frozen=True)
class SmallAnswer:
    """`logprobs` are those of its tokens, in nats; `cut` says that it reached its longest length; `form_kept` that it
    parses as what was asked for, if anything was."""

    logprobs: Sequence[float]
    cut: bool = False
    form_kept: bool = True


def cascade_features(answers: Sequence[SmallAnswer], first_tokens: int = 0) -> Floats:
    """(requests, `SIGNS`). With `first_tokens`, only the beginning of each answer is looked at, and not its end."""
    return np.array([_signs(answer, first_tokens) for answer in answers], np.float64).reshape(len(answers), len(SIGNS))


def _signs(answer: SmallAnswer, first_tokens: int) -> tuple[float, ...]:
    whole = not first_tokens or len(answer.logprobs) < first_tokens
    seen = [max(LEAST, value) for value in answer.logprobs[: first_tokens or None]]
    if not seen:  # an empty answer is no sure one
        return (LEAST, LEAST, 1.0, LEAST, LEAST, 0.0, float(answer.cut), float(not answer.form_kept))
    return (
        sum(seen) / len(seen),
        min(seen),
        sum(value < UNSURE for value in seen) / len(seen),
        seen[0],
        seen[-1],
        math.log1p(len(seen)),
        float(whole and answer.cut),
        float(whole and not answer.form_kept),
    )


def fit_cascade(
    answers: Sequence[SmallAnswer], small: Floats, large: Floats, *, first_tokens: int = 0
) -> LossRegression:
    return fit_regression(cascade_features(answers, first_tokens), small, large, (Block(len(SIGNS)),))
