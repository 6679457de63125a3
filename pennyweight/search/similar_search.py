"""Are answers to similar questions worth serving? Asked of the chosen deployment, where the user allows a share of
wrong hits.

fill    the tuning half goes through the gateway, which keeps its answers
prove   the held-out half is judged in shadow: each answer that would have been served is held against the label or the
        service's own answer, and scores are tested in a fixed sequence, strictest first
parts   the held-out half as clients get it: the proof's parts that look at whole answers, endings and tasks
speed   the held-out half with and without the stage, in turns

The deployment was accepted before this is asked, so its parts may err as often again (a fixed sequence).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pennyweight.budget import Budget, Outcome, Verdict
from pennyweight.deployment import Deployment
from pennyweight.evidence import Reference
from pennyweight.measure.proof import endings, tasks
from pennyweight.measure.proof.pair import Pair
from pennyweight.measurement import collect
from pennyweight.search.faults import TRIAL_FAULTS
from pennyweight.search.outcomes import compared_by
from pennyweight.search.question import Answer, Listener, Question
from pennyweight.search.similar_bench import Served, SimilarBench
from pennyweight.serve import catalogue
from pennyweight.service import CachePolicy, Service, SimilarPolicy
from pennyweight.similar_evidence import SimilarEvidence
from pennyweight.similarity.bound import Judged, Threshold, bound_on_wrong, error_of_look, least_labels, threshold_for
from pennyweight.workload import Workload, clusters

ANSWERS_FILE = "answers.db"
TTL_SECONDS = 30 * 86400.0


@dataclass(frozen=True)
class HitBound:
    """Of `hits` that were served `wrong` were wrong, and at most `bound` are; `limit` is what is allowed."""

    hits: int
    wrong: int
    bound: float
    limit: float = 1.0


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
        policy = policy_of(self.question.similar, _compared_by(self.question.workload))
        found = SimilarEvidence(policy, requests=len(answer.held_out.requests))
        if answer.chosen.engine == catalogue.REMOTE:
            return replace(found, refused="the chosen server runs already, without our gateway")
        service = service_with(answer.chosen, policy, place)
        try:
            return self._tried(found, service, answer)
        except TRIAL_FAULTS as error:
            return replace(found, refused=f"it could not be measured: {error}")

    def _tried(self, found: SimilarEvidence, service: Service, answer: Answer) -> SimilarEvidence:
        policy = found.policy
        self.listener.stage("Similar answers: the tuning half fills the cache")
        self.bench.fill(service, self.tuning)
        self.listener.stage("Similar answers: would-be hits of the held-out half are judged")
        looked = self.bench.look(service, answer.held_out)
        found = replace(
            found,
            would_be_hits=sum(one.is_hit for one in looked),
            would_be_wrong=sum(not one.hit_right for one in looked),
        )
        proven = certify(looked, policy.limit, error_of_proof(policy))
        if proven is None:
            return replace(found, refused=_none_proven(found, bound_of(looked, error_of_proof(policy))))
        found = replace(found, threshold=proven.score, hits=proven.labelled, wrong=proven.wrong, bound=proven.bound)
        self.bench.allow(service, proven)
        self.listener.stage("Similar answers: the held-out half as clients get it")
        limits = judge_parts(self.bench.serve(service, answer.held_out), answer.references, self.question.budget)
        found = replace(found, limits=limits)
        if limits.outcome is not Outcome.ACCEPT:
            return replace(found, refused=f"with it a limit is missed ({limits.reason})")
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


def policy_of(limit: float, compared: str) -> SimilarPolicy:
    return SimilarPolicy(limit, ttl_seconds=TTL_SECONDS, compared=compared)


def service_with(deployment: Deployment, policy: SimilarPolicy, place: Path) -> Service:
    return Service.of(deployment, cache=CachePolicy(str(place), ttl_seconds=TTL_SECONDS, similar=policy))


def certify(served: Sequence[Served], limit: float, error: float) -> Threshold | None:
    """The loosest score at which the share of wrong hits is within the limit, with confidence 1 - error: scores are
    tested strictest first, from the first with hits enough, until one fails."""
    return threshold_for(_labels(served), limit, error=error)


def bound_of(served: Sequence[Served], error: float) -> HitBound:
    labels = _labels(served)
    return HitBound(len(labels), sum(one.wrong for one in labels), bound_on_wrong(labels, error))


def _labels(served: Sequence[Served]) -> list[Judged]:
    """Hits of one session, or of sessions that share a prompt, are counted as repeats of one."""
    unit_of = clusters([one.request for one in served])
    return [
        Judged(one.hit_score, not one.hit_right, unit_of[one.request.id], one.hit_answer)
        for one in served
        if one.hit_score is not None
    ]


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


def _none_proven(found: SimilarEvidence, whole: HitBound) -> str:
    limit = found.policy.limit
    needed = least_labels(limit, error_of_proof(found.policy))
    judged = f"of {found.would_be_hits} would-be hits of the held-out half {found.would_be_wrong} were wrong"
    if found.would_be_hits < needed:
        return f"{judged}, and {limit:.1%} takes {needed} hits, none of them wrong"
    return f"{judged} (at most {whole.bound:.1%} are), and at no score are {limit:.1%} certain"


def _compared_by(workload: Workload) -> str:
    """Empty for text: there a request may ask for JSON."""
    found = compared_by(workload)
    return "" if found in ("text", "json") else found
