"""Requests to an engine and its answers: values passed between the worker, the engines and the OpenAI API."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length", "error", "refused"]
SCORED_TOPS = 5


@dataclass(frozen=True)
class Generation:
    """One request to an engine. Temperature 0 is greedy. `top_logprobs` is None when none were requested, `schema` a
    JSON schema that the answer must follow."""

    id: str
    prompt: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop_tokens: tuple[int, ...] = ()
    top_logprobs: int | None = None
    schema: str | None = None


@dataclass(frozen=True)
class Event:
    """New tokens of one generation. `finish` is set on the last event: stop, length, error, or refused: the request
    asks for what this engine cannot do.

    `logprobs` (natural) matches `tokens`; `alternatives` holds (token, logprob) pairs per token where asked for.
    """

    id: str
    tokens: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    alternatives: Sequence[Sequence[tuple[int, float]]] = ()
    finish: Finish | None = None
    error: str | None = None


@dataclass(frozen=True)
class Score:
    """Teacher forcing over one sequence: log-probabilities of its tokens from some position on, and at each position
    the `SCORED_TOPS` most likely tokens as (token, log-probability), the likeliest first."""

    logprobs: Sequence[float]
    tops: Sequence[Sequence[tuple[int, float]]]


def derived_seed(generation: Generation) -> int:
    """A seed for libraries that take one: the request's own, else one that differs from request to request."""
    if generation.seed is not None:
        return generation.seed % (2**31)
    return int(struct.unpack("<I", random.randbytes(4))[0]) % (2**31)
