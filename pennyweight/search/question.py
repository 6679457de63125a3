"""The input of a search (`Question`), its observer (`Listener`) and its result (`Answer`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from pennyweight import codec
from pennyweight.budget import Budget, Verdict
from pennyweight.deployment import Deployment
from pennyweight.errors import ModelError, UsageError, WorkloadError
from pennyweight.evidence import Reference, SearchOutcome
from pennyweight.hardware import Hardware, detect
from pennyweight.measure.proof.power import undecidable
from pennyweight.measure.proof.proof import Evaluation
from pennyweight.measurement import Comparison, Measurement
from pennyweight.model import Model
from pennyweight.plan.cost import Load
from pennyweight.search.candidates import Candidate, Space, is_unmodified, predicted, propose
from pennyweight.serve import catalogue
from pennyweight.service import SimilarPolicy
from pennyweight.similarity.bound import error_of_look, least_labels
from pennyweight.study import Trial
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import Workload

REFERENCE_ENGINE = "transformers"


@dataclass(frozen=True)
class Question:
    """The input of a search. `engines` and `schemes` None mean all; `techniques` are amounts by name,
    as `recipes.parse` gives them; `remote` has base_url and served_model of a running server to include; `similar` is
    the share of answers to similar questions that may be wrong, 0 for none."""

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
    techniques: Mapping[str, str] = field(default_factory=dict)
    speculate: bool = False
    remote: Mapping[str, str] | None = None
    similar: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("streams", 1), ("rounds", 1), ("iterations", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name}={value!r} is not possible: use a whole number, {least} or more.")
        if not isinstance(self.seed, int):
            raise UsageError(f"seed={self.seed!r} is no whole number.")
        if not isinstance(self.budget, Budget):
            raise UsageError(f"budget={self.budget!r} is no Budget: write pennyweight.Budget(max_added_nats=0.02).")
        for name in ("engines", "schemes"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name}={getattr(self, name)!r} is one word: give a tuple of names.")
        SimilarPolicy(self.similar)  # refuses what is no share
        if not isinstance(self.techniques, Mapping):
            raise UsageError(f"techniques={self.techniques!r} is no mapping: write {{'prune': '10%'}}.")

    @cached_property
    def prompt_lengths(self) -> tuple[int, ...]:
        """Tokens of each request's prompt, counted once: every check and prediction needs them."""
        tokenizer = Tokenizer(self.model.path)
        return tuple(len(tokenizer.request_tokens(request)) for request in self.workload.requests)

    def as_json(self) -> dict[str, Any]:
        """What must be equal for a search to be resumed."""
        asked: dict[str, Any] = {
            "model": self.model.id,
            "workload": self.workload.id,
            "budget": codec.plain(self.budget),
            "streams": self.streams,
            "seed": self.seed,
            "engines": self.engines and list(self.engines),
            "schemes": self.schemes and list(self.schemes),
            "iterations": self.iterations,
            "exhaustive": self.exhaustive,
            "techniques": dict(self.techniques),
            "speculate": self.speculate,
            "remote": self.remote and dict(self.remote),
        }
        return asked | ({"similar": self.similar} if self.similar else {})


class Listener(Protocol):
    """Receives the progress of a search: the command line, a program, or a test implements it."""

    def stage(self, text: str) -> None: ...
    def progress(self, done: int, total: int, note: str = "") -> None: ...
    def trial(self, trial: Trial) -> None: ...


@dataclass(frozen=True)
class Answer:
    """The result of a search. When nothing meets the budget, `chosen` is None and `nearest` is the closest trial;
    `failures` are the candidates that could not be measured, with the reasons."""

    outcome: SearchOutcome
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
    failures: tuple[tuple[str, str], ...]
    held_out: Workload
    references: Mapping[str, Reference]
    seconds: float

    @property
    def unmodified_wins(self) -> bool:
        return self.chosen is not None and is_unmodified(self.chosen.group)


def baseline_of(question: Question) -> Candidate:
    """The unmodified model on the reference engine."""
    return Candidate(REFERENCE_ENGINE, question.model.scheme, {"max_num_seqs": question.streams})


def space_of(question: Question, hardware: Hardware) -> Space:
    pairs = zip(question.prompt_lengths, question.workload.requests, strict=True)
    longest = max(length + request.max_tokens for length, request in pairs)
    return propose(
        question.model,
        hardware,
        question.streams,
        question.engines,
        question.schemes,
        wanted=question.techniques,
        longest=longest,
        remote=question.remote,
        fields=question.workload.fields,
    )


# -- checks before anything is built --


def refuse(question: Question, space: Space, hardware: Hardware) -> None:
    """Raise for a model that cannot be the baseline, requests that do not fit its context, and a budget that no
    candidate can meet."""
    refuse_model(question.model)
    _refuse_workload(question)
    if not space.groups:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in space.refused) or "nothing was proposed"
        raise UsageError(f"There is nothing to try: {reasons}")
    if not question.exhaustive:
        _refuse_memory(question, space, hardware)


def refuse_early(question: Question) -> None:
    """`refuse` before this machine's rates are measured: none of its refusals depends on them."""
    here = unmeasured()
    refuse(question, space_of(question, here), here)


def unmeasured() -> Hardware:
    """This machine, with rates that nothing may depend on."""
    return replace(detect(), memory_bandwidth=1.0, arithmetic_rate={"f32": 1.0, "bf16": 1.0, "int8": 1.0})


def refuse_model(model: Model) -> None:
    """Raise if the reference engine cannot serve it: without its answers nothing can be proven."""
    reason = catalogue.refusal(REFERENCE_ENGINE, model.scheme, model.config)
    if reason:
        raise ModelError(f"{model.name} cannot be served as the baseline: {reason}")


def _refuse_workload(question: Question) -> None:
    refuse_fields(question)
    _refuse_undecidable(question)
    _refuse_similar(question)
    if question.budget.max_degradation is not None and not question.workload.labelled:
        raise UsageError(
            f"--max-degradation needs labelled requests and {question.workload.name!r} has none: "
            "use --max-added-nats, or a workload with references and scorers."
        )
    refuse_lengths(question)


def _refuse_similar(question: Question) -> None:
    """Raise where so few requests could neither earn nor prove similar answers, whatever they are."""
    if not question.similar:
        return
    policy = SimilarPolicy(question.similar)
    tuning, held_out = (len(half.requests) for half in question.workload.split(question.seed))
    to_prove = least_labels(policy.limit, error_of_look(1, 1 - policy.confidence))
    if held_out < to_prove or tuning < 2:
        raise UsageError(
            f"--cache-similar {policy.limit:.1%} takes {to_prove} hits in the held-out half, none of them wrong, and "
            f"that of {question.workload.name} has {held_out} requests: allow more wrong hits, or bring more requests."
        )


def refuse_fields(question: Question) -> None:
    """Raise for a request that the reference engine cannot answer as asked."""
    for request in question.workload.requests:
        unheeded = catalogue.unheeded(REFERENCE_ENGINE, request.fields)
        if unheeded:
            raise WorkloadError(
                f"Request {request.id!r} asks for {', '.join(unheeded)}, which the reference engine, "
                f"{REFERENCE_ENGINE}, does not follow, so that there is nothing to prove against: take it out."
            )


def refuse_lengths(question: Question) -> None:
    """Raise for a request that does not fit the model's context."""
    context = question.model.context_length
    for length, request in zip(question.prompt_lengths, question.workload.requests, strict=True):
        if length + request.max_tokens > context:
            raise WorkloadError(
                f"Request {request.id!r} needs {length} + {request.max_tokens} tokens and the context of "
                f"{question.model.name} is {context}: shorten it, or lower its max_tokens."
            )


def _refuse_undecidable(question: Question) -> None:
    """Raise where the held-out half could never prove a limit, however good a candidate is."""
    if question.budget.max_degradation is not None and not question.workload.labelled:
        return  # said in its own words
    hopeless = undecidable(question.budget, question.workload.split(question.seed)[1].requests)
    if hopeless:
        raise UsageError(f"{question.workload.name!r} cannot decide this budget. {hopeless}")


def _refuse_memory(question: Question, space: Space, hardware: Hardware) -> None:
    limit = question.budget.max_memory_bytes
    if limit is None:
        return
    load = Load(1.0, 1.0, question.streams)
    needed = {
        candidate.label: predicted(candidate, question.model, hardware, load, {})["peak_memory_bytes"]
        for candidate in (members[0] for members in space.groups.values())
        if candidate.engine != catalogue.REMOTE
    }
    least = min(needed, key=lambda label: needed[label], default=None)
    if least is not None and needed[least] > limit:
        raise UsageError(
            f"--max-memory of {limit / 2**20:.0f} MiB is below the smallest prediction, "
            f"{needed[least] / 2**20:.0f} MiB for {least}: allow more, or add --exhaustive to measure it anyway."
        )
