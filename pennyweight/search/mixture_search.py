"""Several models for one job: the cheapest that holds, alone or as a mixture with the large one.

measure    each model's fastest form, and its requests a second on its own answers
reference  the first model, unmodified, answers both halves
race       the other models on the held-out half, cheapest first, until one loses no more than the limit
fit        policies of a mixture on the tuning half (fitting.py), certified once on the held-out half (policies.py)
serve      the cheapest through the gateway, under load, against the large model alone

The race takes half of the error, the policies the other half.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError, WorkloadError
from pennyweight.measurement import Comparison
from pennyweight.mixture import Mixture
from pennyweight.mixture_evidence import Winner
from pennyweight.search import fitting, racing
from pennyweight.search.faults import TRIAL_FAULTS
from pennyweight.search.judging import Judgements, Judging, is_free
from pennyweight.search.members import Member, Members
from pennyweight.search.mixture_bench import MixtureBench
from pennyweight.search.mixture_question import MixtureQuestion
from pennyweight.search.outcomes import OutcomeMatrix, compared_by, departures
from pennyweight.search.policies import Candidate, Costs, choose
from pennyweight.search.question import Listener
from pennyweight.search.scoring import Scores
from pennyweight.service import Service
from pennyweight.workload import Workload, clusters

Floats = NDArray[np.float64]
REFERENCE = "(reference)"  # the large model unmodified, where it is served otherwise
SERVED = "(served)"  # what was chosen, through the gateway
SPEED_WAVES, SPEED_LEAST = 4, 32  # requests of a run, by streams and at least


Certified = tuple[Candidate, fitting.Fitted, Member]  # a policy with its certificate, and its small member


@dataclass(frozen=True)
class MixtureAnswer:
    """`best` is the policy of the `mixture`, if one was chosen; `small_wins` says that another model alone was.
    `chosen` is the name of what answers in the service. `faster` compares its requests a second with the large model's;
    `served` are its figures through the gateway, `served_score` its mean score there."""

    large: Member
    reference: Member
    others: tuple[Member, ...]
    races: tuple[racing.Race, ...]
    candidates: tuple[Certified, ...]
    best: Certified | None
    mixture: Mixture | None
    service: Service
    chosen: str
    small_wins: bool
    faster: Comparison | None
    served: Mapping[str, float]
    served_score: float | None
    remarks: tuple[str, ...]
    seconds: float

    @property
    def winner(self) -> Winner:
        return Winner.MIXTURE if self.mixture else Winner.SMALL if self.small_wins else Winner.LARGE


class MixtureSearch:
    def __init__(
        self,
        question: MixtureQuestion,
        members: Members,
        bench: MixtureBench,
        matrix: OutcomeMatrix,
        listener: Listener,
        *,
        embed: fitting.Embed | None,
        judgements: Judgements | None = None,
    ) -> None:
        """`judgements` where a judge is asked."""
        self.question, self.members, self.bench, self.matrix = question, members, bench, matrix
        self.listener, self.embed = listener, embed
        first = question.first
        tuning, held_out = first.workload.split(first.seed)
        self.tuning, self.held_out = tuning, held_out
        judging = Judging(judgements, question.name) if judgements is not None else None
        self.scores = Scores(matrix, (tuning, held_out), question.name, judging)
        self.compared = compared_by(first.workload)
        self.remarks: list[str] = []

    def run(self) -> MixtureAnswer:
        began = time.perf_counter()
        found = self._measured()
        large, reference, others = found
        self._refer_to(reference)
        self._ask(reference, self.tuning, self.held_out)
        if large.name != reference.name:
            self._ask(large, self.tuning, self.held_out)
        cheaper = [one for one in others if one.seconds_per_request < large.seconds_per_request]
        self.remarks += [
            f"{one.name} costs no less a request than {large.name}." for one in others if one not in cheaper
        ]
        races = self._race(cheaper)
        accepted = next((race.name for race in races if race.outcome == "accepted"), None)
        small = next((member for member in others if member.name == accepted), None)
        candidates: list[Certified] = []
        if small is None and self.question.policies:
            candidates = self._certified(large, cheaper)
        best = candidates[0] if candidates and candidates[0][0].cost < large.seconds_per_request else None
        mixture = None if best is None else self._mixture(best, large)
        service, chosen = self._service(large, small, best[2] if best else None, mixture)
        try:
            faster, served, score = self._served(service, large, plain=small is None and mixture is None)
            refusal = _refusal(faster, small, large)
        except TRIAL_FAULTS as error:  # found and certified, but not measured: nothing that was found is lost
            refusal = (
                f"{service.label} was chosen, but could not be measured through the gateway ({error}; its logs are in "
                f"logs/{service.id}): {large.name} is served. Try again with --resume."
            )
        if refusal:
            self.remarks.append(refusal)
            small, mixture, best, faster, served, score = None, None, None, None, dict(large.figures), None
            service, chosen = self._service(large, None, None, None)
        return MixtureAnswer(
            large, reference, tuple(others), tuple(races), tuple(candidates), best, mixture, service, chosen,
            small is not None, faster, served, score, tuple(self.remarks), time.perf_counter() - began,
        )  # fmt: skip

    @property
    def _load(self) -> Workload:
        """Of a run under load: some of the tuning half."""
        count = max(SPEED_LEAST, SPEED_WAVES * self.question.first.streams)
        return self.tuning.take(count, self.question.first.seed).at_least(count)

    # -- members and their answers --

    def _measured(self) -> tuple[Member, Member, list[Member]]:
        """The large model, the reference, and the others, the cheapest a request first."""
        question = self.question
        load = self._load
        given = question.given
        if question.name in given:
            large = reference = self.members.given(question.name, question.first, given[question.name], load)
        else:
            reference = self.members.fastest(question.name, question.first, load, unmodified=True)
            large = reference
            if question.first.schemes:
                fastest = self.members.fastest(
                    f"{question.name}, as it is served", question.first, load, unmodified=False
                )
                large = replace(fastest, name=question.name)
            if large.deployment.id != reference.deployment.id:
                reference = replace(reference, name=REFERENCE)
        others = [
            self.members.given(name, other, given[name], load)
            if name in given
            else self.members.fastest(name, other, load, unmodified=not other.schemes)
            for name, other in question.others.items()
        ]
        return large, reference, sorted(others, key=lambda member: member.seconds_per_request)

    def _refer_to(self, reference: Member) -> None:
        """Its answers are what the others' are held against, and it judges them, if one does."""
        self.scores.reference = reference.name
        if self.scores.judging is not None:
            self.scores.judging.reference = reference.name
            self._judge = reference

    def _ask(self, member: Member, *halves: Workload) -> None:
        wanted = [half for half in halves if self.matrix.missing(member.name, half.requests)]
        if wanted:
            self.listener.stage(f"{member.name} answers ({member.deployment.short_label})")
            self.bench.ask(self.matrix, member.name, _alone(member), wanted)
        judging = self.scores.judging
        if judging is not None and member.name != self.scores.reference:
            if member.name not in judging.calibrations:
                self._calibrate(judging, member)
            for half in halves:
                self._judged(judging, member, half)

    def _calibrate(self, judging: Judging, member: Member) -> None:
        labelled = replace(self.tuning, requests=tuple(r for r in self.tuning.requests if r.labelled and is_free(r)))
        if self.matrix.missing(member.name, labelled.requests):
            self.bench.ask(self.matrix, member.name, _alone(member), [labelled])
        self._judged(judging, member, labelled)
        judging.fit(member.name, self.scores.pairs(member.name, labelled.requests))

    def _judged(self, judging: Judging, member: Member, half: Workload) -> None:
        pairs = self.scores.pairs(member.name, half.requests)
        if judging.judgements.missing(member.name, pairs):
            self.listener.stage(f"{self._judge.name} judges {member.name}'s answers")
            self.bench.judge(judging.judgements, member.name, _alone(self._judge), pairs)

    # -- the race --

    def _place(self, unit: str) -> str:
        """An order that has nothing to do with the one that the halves were made by."""
        return hashlib.sha256(f"race {self.question.first.seed} {unit}".encode()).hexdigest()

    def _race(self, others: Sequence[Member]) -> list[racing.Race]:
        units = clusters(self.held_out.requests)
        order = sorted(set(units.values()), key=self._place)
        by_unit = {name: [r for r in self.held_out.requests if units[r.id] == name] for name in order}

        def ask(member: Member) -> racing.Ask:
            def answered(count: int) -> tuple[Floats, Floats]:
                requests = [request for name in order[:count] for request in by_unit[name]]
                part = replace(self.held_out, requests=tuple(requests))
                self._ask(member, part)
                rows = [self.scores.of(name, requests) for name in (member.name, self.scores.reference)]
                places = np.unique([order.index(units[request.id]) for request in requests], return_inverse=True)[1]
                mine, its = (np.bincount(places, weights=row).astype(np.float64) for row in rows)
                return mine, its

            return answered

        return racing.race(
            [(member.name, ask(member)) for member in others],
            len(order),
            self.question.limit.share,
            most=self.scores.most * max(len(rows) for rows in by_unit.values()),
            error=self.question.race_error,
        )

    # -- policies --

    def _certified(self, large: Member, others: Sequence[Member]) -> list[Certified]:
        """All policies with all other models, the cheapest first."""
        each = self.question.error / 2 / max(1, len(others))
        found: list[Certified] = []
        for member in others:
            self._ask(member, self.tuning, self.held_out)
            self.listener.stage(f"Policies of {member.name} and {large.name}")
            costs = Costs(member.seconds_per_request, large.seconds_per_request)
            tuning, held_out = (
                fitting.Half(half.requests, self.matrix.of(member.name, half.requests))
                for half in (self.tuning, self.held_out)
            )
            labels = [self.scores.labels(member.name, large.name, half) for half in (self.tuning, self.held_out)]
            try:
                fitted = fitting.fit(self.question.policies, tuning, held_out, labels[0], costs, self.embed)
                policies = [one.policy for one in fitted]
                if "kind" in self.question.policies and len(set(tuning.kinds)) < 2:
                    self.remarks.append("All requests have the same instructions: there are no kinds to decide by.")
                choice = choose(policies, labels[1], self.question.limit, costs, error=each)
            except (UsageError, WorkloadError) as error:
                self.remarks.append(f"{member.name}: {error}")
                continue
            by_name = {one.policy.name: one for one in fitted}
            found += [(candidate, by_name[candidate.policy.name], member) for candidate in choice.candidates]
        return sorted(found, key=lambda one: one[0].cost)

    def _mixture(self, best: Certified, large: Member) -> Mixture | None:
        candidate, fitted, small = best
        chosen = candidate.certificate.chosen
        if chosen is None:
            return None
        kept = candidate.policy.held_out <= chosen.threshold
        mine, its = (self.matrix.of(name, self.held_out.requests) for name in (small.name, large.name))
        return Mixture(
            small.name,
            large.name,
            (small.deployment.id, large.deployment.id),
            fitted.at(chosen.threshold),
            replace(candidate.certificate, scores=self.scores.name),
            departures(mine, its, kept, self.compared),
            self.compared,
        )

    # -- the service --

    def _service(
        self, large: Member, small: Member | None, mixed: Member | None, mixture: Mixture | None
    ) -> tuple[Service, str]:
        """What is served, and the name of what answers."""
        called = self.question.first.model.name
        if mixture is None or mixed is None:
            member = small or large
            return Service({member.name: member.deployment}, {called: member.name}), member.name
        name = f"{mixed.name} or {large.name}"
        members = {mixed.name: mixed.deployment, large.name: large.deployment}
        routes = {called: name, **{member: member for member in members if member != called}}
        return Service(members, routes, mixtures={name: mixture}), name

    def _served(
        self, service: Service, large: Member, *, plain: bool
    ) -> tuple[Comparison | None, dict[str, float], float | None]:
        """What was chosen, through the gateway: its figures, its score, and how much faster than the large model."""
        if plain:
            return None, dict(large.figures), None
        self.listener.stage(f"Through the gateway: {service.label}")
        served, name = self.bench.figures(service, self._load), f"{SERVED} {service.id}"
        self.bench.ask(self.matrix, name, service, [self.held_out])
        score = self.scores.mean(name, self.held_out.requests)
        self.listener.stage(f"Interleaved with {large.name} alone")
        return self.bench.compare(service, _alone(large), self._load), served, score


def _refusal(faster: Comparison | None, small: Member | None, large: Member) -> str:
    """Why the large model is served after all; empty where it is not. A mixture must certainly be faster; a small model
    alone, which takes less memory, too, must not be slower, certainly or by all that was measured."""
    if faster is None:
        return ""
    told = f"{faster.ratio:.2f} times the requests a second of {large.name} alone ({faster.describe_interval()})"
    if small is None and (faster.bounds is None or faster.bounds[0] <= 1):
        return f"The mixture is certified and serves {told}, which is not certainly more: {large.name} alone is served."
    if small is not None and faster.ratio < 1 and (faster.bounds is None or faster.bounds[1] < 1):
        return f"{small.name} holds, and serves {told}: {large.name} is served."
    return ""


def _alone(member: Member) -> Service:
    return Service.of(member.deployment, [member.name])
