"""Evidence: everything that a verdict rests on, enough to be believed, served and proven again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from pennyweight.budget import Budget, Verdict
from pennyweight.deployment import Deployment
from pennyweight.hardware import Hardware
from pennyweight.measurement import Comparison, Measurement
from pennyweight.model import Lineage
from pennyweight.similar_evidence import SimilarEvidence
from pennyweight.study import Trial
from pennyweight.workload import Request


class SearchOutcome(StrEnum):
    """How a search ended. INFEASIBLE: candidates were measured and every one misses a limit. ERROR: none could be
    measured, so nothing is known."""

    ACCEPT = "ACCEPT"
    INFEASIBLE = "INFEASIBLE"
    ERROR = "ERROR"


class Part(StrEnum):
    """The seven parts of a proof; measure/proof/ has one file for each but the last."""

    SAME_QUESTION = "same question"
    WEIGHTS = "weights"
    DECODE = "decode path"
    ENDINGS = "endings"
    TAILS = "tails"
    TASKS = "tasks"
    SPEED = "speed and limits"


@dataclass(frozen=True)
class Reference:
    """The baseline's greedy answer to one request, and its scores under the baseline itself.

    answer    token ids; `end` is the token that ended it, None where it ran to its limit
    logprobs  of each scored token: the answer's, then the end token
    agreed    whether each token of the answer was the baseline's first choice when it was scored
    tops      at each scored token, the likeliest tokens with their log-probabilities
    finish    OpenAI's finish_reason
    valid     whether the answer keeps the form that the request asks for, such as a JSON schema
    samples   sampled answers, where the request asks for sampling
    spelled   how many tokens each scored token takes in the candidate's vocabulary; empty means one each
    """

    request_id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    agreed: tuple[bool, ...]
    right: bool | None = None
    spelled: tuple[int, ...] = ()
    finish: str = ""
    end: int | None = None
    tops: tuple[tuple[tuple[int, float], ...], ...] = ()
    valid: bool | None = None
    samples: tuple[tuple[int, ...], ...] = ()

    @property
    def scored_tokens(self) -> tuple[int, ...]:
        """The answer and, if it ended by itself, its end token."""
        return self.answer if self.end is None else (*self.answer, self.end)

    def translated(self, translate: Callable[[int], tuple[int, ...]]) -> Reference:
        """The same in the tokens of a candidate whose vocabulary was trimmed. Trimming keeps special tokens, so an end
        token stays one token; of `tops` those stay that are one token there too."""
        pieces = [translate(token) for token in self.scored_tokens]
        flat = tuple(t for piece in pieces for t in piece)
        tops = tuple(tuple((translate(t)[0], p) for t, p in row if len(translate(t)) == 1) for row in self.tops)
        return replace(
            self,
            prompt=tuple(t for token in self.prompt for t in translate(token)),
            answer=flat if self.end is None else flat[:-1],
            spelled=tuple(len(piece) for piece in pieces),
            end=None if self.end is None else flat[-1],
            tops=tops,
            samples=tuple(tuple(t for token in one for t in translate(token)) for one in self.samples),
        )


@dataclass(frozen=True)
class Speedup:
    """The chosen deployment compared with another one."""

    against: str
    comparison: Comparison


@dataclass(frozen=True)
class TechniqueGain:
    """The gain of a recipe over the same engine and scheme without it. `alone` is the product of its techniques' own
    gains: a `speed` below it means that they do not add up."""

    recipe: str
    engine: str
    scheme: str
    speed: float
    memory: float | None
    added_nats: float
    alone: float | None = None


@dataclass(frozen=True)
class Evidence:
    """`question` is the search's question as JSON; `failures` are reasons by candidate, of those that could not be
    measured; `peak_memory_bytes` has the highest peak seen of chosen, baseline and fastest_unmodified."""

    outcome: SearchOutcome
    model_id: str
    model_name: str
    lineage: Lineage
    question: Mapping[str, Any]
    budget: Budget
    streams: int
    workload_name: str
    workload_id: str
    workload_requests: int
    baseline: Deployment
    limits: Verdict
    hardware: Hardware
    chosen: Deployment | None = None
    fastest_unmodified: Deployment | None = None
    unmodified_wins: bool = False
    quality: Measurement | None = None
    speed: Measurement | None = None
    against_baseline: Speedup | None = None
    against_unmodified: Speedup | None = None
    nearest: Trial | None = None
    refused: tuple[tuple[str, str], ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()
    techniques: tuple[TechniqueGain, ...] = ()
    speculation: tuple[Trial, ...] = ()
    trials: int = 0
    peak_memory_bytes: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    held_out: tuple[Request, ...] = ()
    references: tuple[Reference, ...] = ()
    similar: SimilarEvidence | None = None
