"""Cascade: the small model answers, and how sure it was of its own words decides whether the large one is asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.mixing.agreement import asks_json
from pennyweight.mixing.regression import Block, fit_regression
from pennyweight.mixture import LossRegression

Floats = NDArray[np.float64]
UNSURE = math.log(0.5)  # a token that the model gives less than half
SIGNS = (
    "mean",
    "least",
    "unsure tokens",
    "first",
    "last",
    "mean margin",
    "least margin",
    "length",
    "cut",
    "form broken",
)
TOPS = 2  # alternatives that an answer must be asked for, for its margins
LEAST = -20.0  # nats: below, a token is as unlikely as can be


@dataclass(frozen=True)
class SmallAnswer:
    """`logprobs` are those of its tokens, in nats, and `margins` those between the two likeliest at each place; `cut`
    says that it reached its longest length; `form_kept` that it parses as what was asked for, if anything was."""

    logprobs: Sequence[float]
    margins: Sequence[float] = ()
    cut: bool = False
    form_kept: bool = True


def cascade_features(answers: Sequence[SmallAnswer], first_tokens: int = 0) -> Floats:
    """(requests, `SIGNS`). With `first_tokens`, only the beginning of each answer is looked at, and not its end."""
    return np.array([_signs(answer, first_tokens) for answer in answers], np.float64).reshape(len(answers), len(SIGNS))


def _signs(answer: SmallAnswer, first_tokens: int) -> tuple[float, ...]:
    whole = not first_tokens or len(answer.logprobs) < first_tokens
    seen = [max(LEAST, value) for value in answer.logprobs[: first_tokens or None]]
    if not seen:  # an empty answer is no sure one
        return (LEAST, LEAST, 1.0, LEAST, LEAST, 0.0, 0.0, 0.0, float(answer.cut), float(not answer.form_kept))
    margins = [min(-LEAST, value) for value in answer.margins[: first_tokens or None]] or [0.0]
    return (
        sum(seen) / len(seen),
        min(seen),
        sum(value < UNSURE for value in seen) / len(seen),
        seen[0],
        seen[-1],
        sum(margins) / len(margins),
        min(margins),
        math.log1p(len(seen)),
        float(whole and answer.cut),
        float(whole and not answer.form_kept),
    )


def fit_cascade(
    answers: Sequence[SmallAnswer], small: Floats, large: Floats, *, first_tokens: int = 0
) -> LossRegression:
    return fit_regression(cascade_features(answers, first_tokens), small, large, (Block(len(SIGNS)),))


def read_logprobs(found: Mapping[str, Any] | None) -> tuple[list[float], list[float]]:
    """Log-probabilities and margins of the tokens in a choice's `logprobs`, a chat's or a completion's."""
    if not found:
        return [], []
    if "content" in found:
        rows = found["content"] or ()
        own = [float(row["logprob"]) for row in rows]
        tops = [[float(top["logprob"]) for top in row.get("top_logprobs") or ()] for row in rows]
    else:
        own = [float(value) for value in found.get("token_logprobs") or () if value is not None]
        tops = [list((row or {}).values()) for row in found.get("top_logprobs") or ()]
    return own, [_margin(row) for row in tops if len(row) >= TOPS]


def _margin(logprobs: Sequence[float]) -> float:
    first, second = sorted(logprobs, reverse=True)[:TOPS]
    return first - second


def keeps_json(fields: Mapping[str, Any], text: str) -> bool:
    """Does the answer parse, where the request's fields ask for JSON?"""
    if not asks_json(fields):
        return True
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
