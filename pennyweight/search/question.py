"""What a search is asked, who watches it, and what it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pennyweight.budget import Budget, Verdict
from pennyweight.deployment import Deployment
from pennyweight.errors import ModelError
from pennyweight.hardware import Hardware
from pennyweight.measure.compare import Comparison
from pennyweight.measure.quality import Evaluation, Reference
from pennyweight.measurement import Measurement
from pennyweight.model import Model
from pennyweight.search.candidates import Candidate, Space, is_unmodified, propose
from pennyweight.serve import catalogue
from pennyweight.study import Trial
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import Workload


@dataclass(frozen=True)
class Question:
    """Everything that the answer depends on. `engines` and `schemes` None mean all."""

    model: Model
    workload: Workload
    budget: Budget
    streams: int = 32
    seed: int = 0
    engines: tuple[str, ...] | None = None
    schemes: tuple[str, ...] | None = None
    iterations: int = 0
    exhaustive: bool = False
    rounds: int = 3
    start_timeout: float = 300.0
    techniques: Mapping[str, str] = field(default_factory=dict)  # amount by name, as `recipes.parse` gives them
    speculate: bool = False  # look for the load up to which guessing ahead pays
    remote: Mapping[str, str] | None = None  # base_url and served_model of a server that joins as it is

    def as_json(self) -> dict[str, Any]:
        return (
            {
                "model": self.model.id,
                "workload": self.workload.id,
                "budget": self.budget.as_json(),
                "streams": self.streams,
                "seed": self.seed,
                "engines": self.engines and list(self.engines),
                "schemes": self.schemes and list(self.schemes),
                "iterations": self.iterations,
                "exhaustive": self.exhaustive,
                "techniques": dict(self.techniques),
            }
            | ({"speculate": True} if self.speculate else {})
            | ({"remote": dict(self.remote)} if self.remote else {})
        )


class Listener(Protocol):
    """Who watches the search: the command line, or a test."""

    def stage(self, text: str) -> None: ...
    def progress(self, done: int, total: int, note: str = "") -> None: ...
    def trial(self, trial: Trial) -> None: ...


@dataclass(frozen=True)
class Answer:
    """What the search ends with. When nothing meets the budget, `chosen` is None and `nearest` came close."""

    chosen: Deployment | None
    baseline: Deployment
    fastest_unmodified: Deployment | None
    evaluation: Evaluation | None
    speed: Measurement | None
    verdict: Verdict
    against_baseline: Comparison | None
    against_unmodified: Comparison | None
    nearest: Trial | None
    refused: tuple[tuple[str, str], ...]
    held_out: Workload
    references: Mapping[str, Reference]
    seconds: float

    @property
    def unmodified_wins(self) -> bool:
        return self.chosen is not None and is_unmodified(self.chosen.group)


def baseline_of(question: Question) -> Candidate:
    """The unmodified model on the reference engine."""
    return Candidate("transformers", question.model.scheme, {"max_num_seqs": question.streams})


def refuse_model(model: Model) -> None:
    """Raise if the reference engine cannot serve it: without its answers nothing can be proven."""
    reason = catalogue.refusal("transformers", model.scheme, model.config)
    if reason:
        raise ModelError(f"{model.name} cannot be held against itself: {reason}")


def space_of(question: Question, hardware: Hardware) -> Space:
    longest = longest_request(Tokenizer(question.model.path), question.workload)
    return propose(
        question.model,
        hardware,
        question.streams,
        question.engines,
        question.schemes,
        question.techniques,
        longest,
        question.remote,
    )


def longest_request(tokenizer: Tokenizer, workload: Workload) -> int:
    """Tokens of prompt and answer, at most, of any request."""
    return max(len(tokenizer.request_tokens(request)) + request.max_tokens for request in workload.requests)
