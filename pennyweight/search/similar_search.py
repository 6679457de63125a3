"""Are answers to similar questions worth serving? Asked of the chosen deployment, where the user allows a share of
wrong hits.

choose  the tuning half goes through the gateway, which judges every would-be hit; the loosest score that seems to hold
prove   the held-out half, as clients get it: each hit is held against the label or the service's own answer, and the
        proof's parts that look at whole answers (endings, tasks) judge all of them
speed   the held-out half with and without the stage, in turns

The deployment was accepted before this is asked, so its parts may err as often again (a fixed sequence).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pennyweight.budget import Budget, Outcome, Verdict
from pennyweight.deployment import Deployment
from pennyweight.evidence import Reference
from pennyweight.measure.proof import endings, tasks
from pennyweight.measure.proof.intervals import ratio_interval
from pennyweight.measure.proof.pair import Pair
from pennyweight.measurement import collect
from pennyweight.search.faults import TRIAL_FAULTS
from pennyweight.search.outcomes import compared_by
from pennyweight.search.question import Answer, Listener, Question
from pennyweight.search.similar_bench import Served, SimilarBench
from pennyweight.serve import catalogue
from pennyweight.service import CachePolicy, Service, SimilarPolicy
from pennyweight.similar_evidence import SimilarEvidence
from pennyweight.similarity.bound import Threshold, error_of_look, least_labels, threshold_for, upper_bound
from pennyweight.workload import Workload, clusters

ANSWERS_FILE = "answers.db"
TTL_SECONDS = 30 * 86400.0
CHOOSING_ERROR = 0.2  # of a threshold on the tuning half, which the held-out half proves or not


@dataclass(frozen=True)
class HitBound:
    """Of `hits` that were served `wrong` were wrong, and at most `bound` are."""

    hits: int
    wrong: int
    bound: float


def error_of_proof(policy: SimilarPolicy) -> float:
    """It is the first look at this bound: the gateway's own looks, while it serves, share the rest of the error."""
    return error_of_look(1, 1 - policy.confidence)


class SimilarSearch:
    def __init__(self, question: Question, bench: SimilarBench, listener: Listener) -> None:
        self.question, self.bench, self.listener = question, bench, listener
        self.tuning = question.workload.split(question.seed)[0]

    def run(self, answer: Answer, place: Path) -> SimilarEvidence:
        """For the chosen deployment of an accepted answer; `place` is the file of answers that may be served."""
        assert answer.chosen is not None
        compared = _compared_by(self.question.workload)
        policy = SimilarPolicy(self.question.similar, ttl_seconds=TTL_SECONDS, compared=compared)
        found = SimilarEvidence(policy, requests=len(answer.held_out.requests))
        if answer.chosen.engine == catalogue.REMOTE:
            return replace(found, refused="the chosen server runs already, without our gateway")
        service = service_with(answer.chosen, policy, place)
        try:
            return self._tried(found, service, answer)
        except TRIAL_FAULTS as error:
            return replace(found, refused=f"it could not be measured: {error}")

    def _tried(self, found: SimilarEvidence, service: Service, answer: Answer) -> SimilarEvidence:
        self.listener.stage("Similar answers: would-be hits of the tuning half are judged")
        labels = self.bench.judge(service, self.tuning)
        scores, wrong = [label.score for label in labels], [label.wrong for label in labels]
        chosen = threshold_for(scores, wrong, found.policy.limit, error=CHOOSING_ERROR)
        found = replace(found, labels=len(labels), labels_wrong=sum(wrong))
        if chosen is None:
            return replace(found, refused=_none_chosen(found))
        found = replace(found, threshold=chosen.score)
        self.bench.allow(service, chosen)
        self.listener.stage("Similar answers: the held-out half")
        served = self.bench.serve(service, answer.held_out)
        bound = bound_of(served, error_of_proof(found.policy))
        limits = judge_parts(served, answer.references, self.question.budget)
        found = replace(found, hits=bound.hits, wrong=bound.wrong, bound=bound.bound, limits=limits)
        refused = refusal(bound, limits, found.policy, error_of_proof(found.policy))
        if refused:
            return replace(found, refused=refused)
        self.bench.allow(service, Threshold(chosen.score, bound.hits, bound.wrong, bound.bound))
        self.listener.stage("Similar answers: how much faster?")
        without = replace(service, cache=replace(service.cache, similar=SimilarPolicy()))
        faster = self.bench.compare(service, without, answer.held_out)
        found = replace(found, faster=faster)
        if faster.bounds is None or faster.bounds[0] <= 1:
            return replace(
                found,
                refused=f"it is not certainly faster: {faster.ratio:.2f} times the requests a second "
                f"({faster.describe_interval()})",
            )
        return found


def service_with(deployment: Deployment, policy: SimilarPolicy, place: Path) -> Service:
    return Service.of(deployment, cache=CachePolicy(str(place), ttl_seconds=TTL_SECONDS, similar=policy))


def bound_of(served: Sequence[Served], error: float) -> HitBound:
    """Hits of one session, or of sessions that share a prompt, are not independent: where any has several, units are
    what is counted."""
    hits = [one for one in served if one.hit]
    wrong = [float(not one.right) for one in hits]
    if not hits:
        return HitBound(0, 0, 1.0)
    unit_of = clusters([one.request for one in served])
    units = [unit_of[one.request.id] for one in hits]
    names = sorted(set(units))
    if len(names) == len(hits):
        return HitBound(len(hits), int(sum(wrong)), upper_bound(int(sum(wrong)), len(hits), error))
    places = np.array([names.index(name) for name in units])
    totals, sizes = np.bincount(places, weights=wrong), np.bincount(places).astype(np.float64)
    _, (_, high) = ratio_interval(totals.astype(np.float64), sizes, bound=float(sizes.max()), error=error)
    return HitBound(len(hits), int(sum(wrong)), min(1.0, high))


def judge_parts(served: Sequence[Served], references: Mapping[str, Reference], budget: Budget) -> Verdict:
    """The limits of the budget on whole answers: how they end, and what labelled and formed ones lose."""
    unit_of = clusters([one.request for one in served])
    pairs = [
        Pair(one.request, unit_of[one.request.id], references[one.request.id], one.answered, right=one.scored)
        for one in served
        if one.request.id in references
    ]
    error = 1 - budget.confidence
    rows = [*endings.judge(pairs, error), *tasks.judge(pairs, error)]
    measurement = collect("", [row.quantity for row in rows], {})
    limits = [limit for limit in (*budget.quality_limits, *budget.form_limits) if limit.quantity in measurement]
    return budget.judge_limits(measurement, tuple(limits), {row.quantity.name: row.reason for row in rows})


def refusal(bound: HitBound, limits: Verdict, policy: SimilarPolicy, error: float) -> str:
    """Why the held-out half does not prove it; empty where it does."""
    needed = least_labels(policy.limit, error)
    if bound.bound > policy.limit and not bound.wrong:
        return (
            f"the held-out half had {bound.hits} hits, none of them wrong, so that {bound.bound:.1%} may be: "
            f"{policy.limit:.1%} takes {needed}"
        )
    if bound.bound > policy.limit:
        return (
            f"{bound.wrong} of {bound.hits} hits of the held-out half were wrong, so that up to {bound.bound:.1%} are, "
            f"and {policy.limit:.1%} are allowed"
        )
    return "" if limits.outcome is Outcome.ACCEPT else f"with it a limit is missed ({limits.reason})"


def _none_chosen(found: SimilarEvidence) -> str:
    limit = found.policy.limit
    needed = least_labels(limit, CHOOSING_ERROR)
    judged = f"of {found.labels} would-be hits of the tuning half {found.labels_wrong} were wrong"
    if found.labels < needed:
        return f"{judged}, and {limit:.1%} takes {needed} that were judged"
    return f"{judged}: at no score do {limit:.1%} seem to hold"


def _compared_by(workload: Workload) -> str:
    """Empty for text: there a request may ask for JSON."""
    found = compared_by(workload)
    return "" if found in ("text", "json") else found
