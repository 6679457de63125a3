"""What is asked of several models for one job, and what is refused before anything is spent on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pennyweight.deployment import Deployment
from pennyweight.errors import UsageError, WorkloadError
from pennyweight.measure.certificate import least_kept
from pennyweight.mixture import Limit
from pennyweight.search import fitting, racing
from pennyweight.search.judging import most_of, refuse_unjudged
from pennyweight.search.members import forms
from pennyweight.search.question import Question, refuse_fields, refuse_lengths, unmeasured
from pennyweight.workload import clusters

LEAST_ROUNDS = 3  # of a comparison that has an interval


@dataclass(frozen=True)
class MixtureQuestion:
    """`first` asks about the model that nothing may be lost against; `others` about further ones by name, and `given`
    are deployments of either kind that the user brings. `policies` are some of `fitting.POLICIES`, none to choose
    between the models alone."""

    first: Question
    name: str
    others: Mapping[str, Question]
    limit: Limit
    given: Mapping[str, Deployment] = field(default_factory=dict)
    policies: tuple[str, ...] = ()
    confidence: float = 0.95
    judge: bool = False  # the first model judges free text without labels
    share: float = 1.0  # of the error, which other questions on this workload have theirs of

    @property
    def error(self) -> float:
        return self.share * (1 - self.confidence)

    def as_json(self) -> dict[str, Any]:
        """What must be equal for a search to be resumed."""
        models = {self.name: self.first.model.id, **{name: one.model.id for name, one in self.others.items()}}
        first = self.first
        return {
            "models": models,
            "given": {name: deployment.id for name, deployment in self.given.items()},
            "workload": first.workload.id,
            "max_degradation": self.limit.share,
            "confidence": self.confidence,
            "max_concurrency": first.streams,
            "seed": first.seed,
            "engines": first.engines and list(first.engines),
            "schemes": first.schemes and list(first.schemes),
            "judge": self.judge,
            "policies": list(self.policies),
        }

    @property
    def race_error(self) -> float:
        return self.error / 2 if self.policies else self.error


def refuse_mixture(question: MixtureQuestion) -> None:
    """Raise before anything is spent: requests that a member cannot take, and too few of them."""
    unknown = [name for name in question.policies if name not in fitting.POLICIES]
    if unknown:
        raise UsageError(f"--mix {unknown[0]} is unknown: use some of {', '.join(fitting.POLICIES)}.")
    if not question.others:
        raise UsageError("A choice between models needs a second one: add it with --also.")
    if question.policies and question.first.rounds < LEAST_ROUNDS:
        raise UsageError(
            f"--mix needs --rounds {LEAST_ROUNDS} or more: fewer give no interval of the speed, and a mixture is "
            "served only if it is certainly faster."
        )
    for name, one in {question.name: question.first, **question.others}.items():
        refuse_fields(one)
        refuse_lengths(one)
        if name not in question.given:
            forms(one, unmeasured(), unmodified=not one.schemes)
    if question.judge and question.first.schemes:
        raise UsageError("--judge compares with the first model as it is: leave --schemes out.")
    if question.judge:
        halves = question.first.workload.split(question.first.seed)
        refuse_unjudged(halves[0].requests, "tuning")
        refuse_unjudged(halves[1].requests, "held-out")
    if question.policies == ("kind",) and not _has_kinds(question):
        raise UsageError("--mix kind needs requests with different instructions, forms or tools: try --mix cluster.")
    there, wanted = independent(question), needed(question)
    if there < wanted:
        raise WorkloadError(
            f"A loss of at most {question.limit.share:.1%} takes {wanted} independent requests in the held-out half "
            f"even if none is lost, and {there} are there: bring about {2 * wanted}, or allow a larger loss."
        )


def _has_kinds(question: MixtureQuestion) -> bool:
    tuning = question.first.workload.split(question.first.seed)[0]
    return len(set(fitting.Half(tuning.requests, ()).kinds)) > 1


def needed(question: MixtureQuestion) -> int:
    """Independent held-out requests before anything can be certified, even if nothing is lost."""
    others = len(question.others)
    looks = len(racing.looks_of(independent(question)))
    most = most_of(question.first.workload.split(question.first.seed)[1].requests) if question.judge else 1.0
    alone = least_kept(question.limit, question.race_error / others / looks, most=most)
    if not question.policies:
        return alone
    rules = sum(fitting.RULES[kind] for kind in question.policies)
    return max(alone, least_kept(question.limit, question.error / 2 / others / rules, most=most))


def independent(question: MixtureQuestion) -> int:
    """Sessions of the held-out half."""
    held_out = question.first.workload.split(question.first.seed)[1]
    return len(set(clusters(held_out.requests).values()))
