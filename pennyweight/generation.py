"""Requests to an engine and its answers: values passed between the worker, the engines and the OpenAI API."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length", "error", "refused"]
Pooling = Literal["mean", "last"]
SCORED_TOPS = 5
MAX_PIECE, PIECE_VALUES = 64, 2**24  # positions scored at once, and their logits


@dataclass(frozen=True)
class Form:
    """What an answer must follow. `text` is a JSON schema, a JSON list of texts (choice), a regular expression that the
    whole answer matches, or a grammar (GBNF as llama.cpp has it; Lark on engines that say so)."""

    kind: Literal["json_schema", "choice", "regex", "grammar"]
    text: str
    compact: bool = False  # JSON without blanks between its parts, on engines that can forbid them


@dataclass(frozen=True)
class Generation:
    """One request to an engine. Temperature 0 is greedy. `top_logprobs` is None when none were requested.

    Penalties of presence and frequency count the answer's tokens, the one of repetition the prompt's too, as in vLLM.
    `logit_bias` is added to the logits of these tokens; no token of `stop_tokens` ends an answer before `min_tokens`.
    """

    id: str
    prompt: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop_tokens: tuple[int, ...] = ()
    top_logprobs: int | None = None
    form: Form | None = None
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0


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
    stopped_by: str | None = None  # the stop string that ended the answer
    cached: int | None = None  # tokens of the prompt that were not computed again, where the engine says so


BEAT = Event("")  # of no generation: the engine goes on, whether or not there are tokens


@dataclass(frozen=True)
class Score:
    """Teacher forcing over one sequence: log-probabilities of its tokens from some position on, and at each position
    the `SCORED_TOPS` most likely tokens as (token, log-probability), the likeliest first."""

    logprobs: Sequence[float]
    tops: Sequence[Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class States:
    """Of a piece of a sequence: how many positions, the sum of the model's last hidden states over them, and the last
    one."""

    count: int
    total: Sequence[float]
    last: Sequence[float]


def pooled(pieces: Sequence[States], pooling: Pooling) -> list[float]:
    """One vector of length 1 for a whole sequence: the mean of its states, or the last of them."""
    pieces = [piece for piece in pieces if piece.count]
    if pooling == "last":
        found = list(pieces[-1].last)
    else:
        count = sum(piece.count for piece in pieces)
        found = [sum(values) / count for values in zip(*(piece.total for piece in pieces), strict=True)]
    length = math.sqrt(sum(value * value for value in found)) or 1.0
    return [value / length for value in found]


def joined_score(pieces: Iterable[Score]) -> Score:
    """One score from those of its parts, in their order."""
    logprobs: list[float] = []
    tops: list[Sequence[tuple[int, float]]] = []
    for piece in pieces:
        logprobs.extend(piece.logprobs)
        tops.extend(piece.tops)
    return Score(logprobs, tops)


def pieces_of(count: int, vocabulary: int) -> Iterator[tuple[int, int]]:
    """Where the pieces of this many positions begin and end: so few that their logits stay within `PIECE_VALUES`, and
    that whoever waits for the next step does not wait long."""
    size = max(16, min(MAX_PIECE, PIECE_VALUES // max(1, vocabulary)))
    for begin in range(0, count, size):
        yield begin, min(begin + size, count)


def derived_seed(generation: Generation) -> int:
    """A seed for libraries that take one: the request's own, else one that differs from request to request."""
    if generation.seed is not None:
        return generation.seed % (2**31)
    return int(struct.unpack("<I", random.randbytes(4))[0]) % (2**31)


def choice_grammar(choices: Sequence[str]) -> str:
    """One of these texts, as a grammar in GBNF, which llama.cpp and xgrammar read."""
    return "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
