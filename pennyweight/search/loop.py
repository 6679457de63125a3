"""The one loop: propose, predict, build, open, measure, judge, record.

baseline   open the unmodified model on the reference engine; candidates are compared with its answers
screen     each engine and scheme with default settings: a short run and a first look at quality, tuning half
tune       the settings of the best, one at a time
final      run the best again, interleaved, because single runs cannot rank near ties
prove      measure the best on the held-out half, then the next best, until one is accepted
speculate  on request: find the load up to which speculative decoding is faster; if the requested load is below it,
           prove the deployment again with speculative decoding
sweep      the chosen deployment at lower loads, to see where its throughput stops growing
compare    the chosen deployment, interleaved with the baseline and with the fastest unmodified engine
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from pennyweight.budget import Outcome, Verdict
from pennyweight.deployment import Deployment, Group
from pennyweight.evidence import SearchOutcome
from pennyweight.measure import compare as comparing
from pennyweight.measure.proof.allowance import Allowance
from pennyweight.measure.proof.power import USUAL_SPREAD, outlook, undecidable
from pennyweight.measure.proof.proof import Evaluation
from pennyweight.measure.repeated import PROOF_RUNS, combined
from pennyweight.measure.speed import in_other_tokens
from pennyweight.measurement import Comparison, Measurement
from pennyweight.search import comparisons, screening, speculating, sweeping
from pennyweight.search.attempts import Attempts
from pennyweight.search.baseline import BaselineAnswers
from pennyweight.search.bench import Bench
from pennyweight.search.candidates import Candidate, finer_than, is_unmodified, neighbours
from pennyweight.search.faults import TRIAL_FAULTS
from pennyweight.search.question import Answer, baseline_of
from pennyweight.search.screening import ranked, worse
from pennyweight.search.translation import AnswerTranslation
from pennyweight.search.trials import Trials
from pennyweight.study import Stage, Trial
from pennyweight.workload import Workload, texts

SCREEN_LOOK = 32  # requests of a first look at quality
# Waves of requests in a run: streams fall idle during the last wave, so one wave would measure mostly idle streams.
SCREEN_WAVES = 2
FULL_WAVES = 3
MIN_SHARE_TO_TUNE = 0.95  # groups within this share of the best have their settings tuned
MIN_GAIN_TO_KEEP = 1.01  # a setting must gain this much to be kept
FINALISTS = 4  # at most, and only those within this share of the best
NEAR_THE_TOP = 0.85
FINAL_ROUNDS = 2

Proof = tuple[Evaluation, Measurement]


class Search:
    """The search loop: `trials` holds the results, `bench` builds and measures, `answers` are the baseline's."""

    def __init__(
        self, trials: Trials, bench: Bench, answers: BaselineAnswers, translation: AnswerTranslation, attempts: Attempts
    ) -> None:
        self.trials, self.bench, self.answers, self.translation = trials, bench, answers, translation
        self.attempts = attempts
        self.question, self.listener, self.space = trials.question, trials.listener, trials.space
        self.tuning, self.held_out = answers.tuning, answers.held_out
        self.baseline = baseline_of(self.question).deployment(self.question.model)

    def run(self) -> Answer:
        """Run the stages, skipping what the study already holds. If the baseline cannot be measured, its error ends the
        search, because there is nothing to compare candidates with."""
        self._measure_baseline()
        for group in screening.ordered_groups(self.trials):
            self._screen(group)
        if self.question.exhaustive:
            for candidate in self.space.candidates:
                self._measured(candidate)
        else:
            self._tune()
        self._run_finals()
        chosen, proof, verdict = self._prove()
        if self.question.speculate and chosen is not None and proof is not None:
            chosen, proof, verdict = self._speculate(chosen, proof, verdict)
        if chosen is not None:
            ratio = self._token_ratio(chosen)
            sweeping.sweep(self.trials, self.bench, self.tuning, chosen=chosen, ratio=ratio)
        return self._answer(chosen, proof, verdict)

    def _answer(self, chosen: Deployment | None, proof: Proof | None, verdict: Verdict) -> Answer:
        trials = self.trials
        fastest = trials.fastest_unmodified()
        nearest = None if chosen else trials.nearest()
        outcome = SearchOutcome.ACCEPT
        if chosen is None:
            outcome = SearchOutcome.INFEASIBLE if trials.anything_measured() else SearchOutcome.ERROR
        if nearest is not None and nearest.measurement is not None and not verdict.limits:
            verdict = self.question.budget.judge(nearest.measurement)
        against = [self._compare(chosen, other) if chosen and other else None for other in (self.baseline, fastest)]
        held_against = self.answers.of("held-out")
        return Answer(
            outcome,
            chosen,
            self.baseline,
            fastest,
            proof[0] if proof else None,
            proof[1] if proof else None,
            verdict,
            against[0],
            against[1],
            nearest,
            self.space.refused,
            trials.failures(),
            self.held_out,
            self.translation.translated(held_against, chosen) if chosen else held_against,
            sum(trial.seconds for trial in trials.study.trials),
        )

    # -- baseline --

    def _measure_baseline(self) -> None:
        """Speed of the baseline, then its answers to both halves, each kept as it comes."""
        candidate = baseline_of(self.question)
        known = self.trials.study.find(Stage.BASELINE, self.baseline.id)
        if known is not None and known.measurement is not None:
            self.trials.correct(candidate, known.measurement)
        if known is not None and self.answers.complete:
            return
        self.listener.stage(f"Baseline: {self.baseline.short_label}")
        started = time.perf_counter()
        with self.bench.open(self.baseline) as running:
            if known is None:
                speed = self.bench.speed(running, self.screen_load())
                usual = self.trials.predicted(candidate)
                self.trials.correct(candidate, speed)
                seconds = time.perf_counter() - started
                self.trials.record(Trial(Stage.BASELINE, self.baseline, speed, usual, seconds=seconds))
            for name in ("tuning", "held-out"):
                missing = self.answers.missing(name)
                if missing is not None:
                    self.listener.stage(f"Baseline: answers to the {name} half")
                    self.bench.references(running, missing, self.answers.keeper(name))

    # -- screen and tune --

    def _screen(self, group: Group) -> None:
        candidate = self.space.groups[group][0]
        if self.trials.find(Stage.SKIP, candidate) is not None:
            return  # decided before this search was resumed
        known = self.trials.find(Stage.SCREEN, candidate)
        if known is not None:
            if known.measurement is not None:
                self.trials.correct(candidate, known.measurement)
            return
        reason = None if self.question.exhaustive else screening.reason_to_skip(self.trials, candidate)
        if reason:
            self.trials.record(Trial(Stage.SKIP, candidate.deployment(), failure=reason))
            return

        def measure(running: Any, deployment: Deployment) -> Measurement:
            speed = self._speed(running, deployment, self.screen_load())
            self.trials.correct(candidate, speed)
            references = self.translation.translated(self.answers.of("tuning"), deployment)
            look = self.bench.quality(running, self.tuning.take(SCREEN_LOOK, self.question.seed), references)
            screening.refuse_broken(candidate, look.measurement)
            return speed.joined(look.measurement)

        self._attempt(Stage.SCREEN, candidate, measure)

    def _tune(self) -> None:
        """Tune the groups near the best, and the fastest unmodified one, because defaults may be slow."""
        survivors = self.trials.best_first(Stage.SCREEN)
        plain = [t for t in survivors if is_unmodified(t.deployment.group)]
        for trial in survivors:
            near = not worse(self.trials.score(trial), self.trials.score(survivors[0]), MIN_SHARE_TO_TUNE)
            if near or trial in plain[:1]:
                self._tune_group(trial.deployment.group)

    def _tune_group(self, group: Group) -> None:
        """Coordinate ascent over its settings, from their defaults."""
        current = self.space.groups[group][0]
        held = self._measured(current)
        for name in current.settings:
            if name == "max_num_seqs" and held is not None and self.question.budget.objective == "throughput":
                continue  # a smaller batch only improves latency, and the limits are met without it
            others = neighbours(current, self.space.groups[group])
            for other in [o for o in others if o.settings[name] != current.settings[name]]:
                gained = self._measured(other)
                if gained is not None and (held is None or worse(held, gained, 1 / MIN_GAIN_TO_KEEP)):
                    current, held = other, gained

    def _measured(self, candidate: Candidate) -> float | None:
        """The candidate's score in a short run; None if it failed or broke a limit."""
        trial = self.trials.find(Stage.TUNE, candidate) or self._attempt(
            Stage.TUNE, candidate, lambda running, own: self._speed(running, own, self.screen_load())
        )
        if trial.measurement is None:
            return None
        accepted = self.trials.speed_verdict(trial.measurement).outcome is Outcome.ACCEPT
        return self.trials.score(trial) if accepted else None

    def _attempt(self, stage: Stage, candidate: Candidate, measure: Callable[[Any, Deployment], Measurement]) -> Trial:
        """Build, open, measure, record."""
        self.listener.stage(f"{stage.capitalize()}: {candidate.deployment().short_label}")
        started = time.perf_counter()
        promise = self.trials.predicted(candidate)
        deployment, measurement, failure = candidate.deployment(), None, None
        try:
            deployment = candidate.deployment(self.bench.build(candidate, self.calibration(), self.prompts()))
            with self.bench.open(deployment) as running:
                measurement = measure(running, deployment)
        except TRIAL_FAULTS as error:
            failure = str(error)
        seconds = time.perf_counter() - started
        return self.trials.record(Trial(stage, deployment, measurement, promise, failure=failure, seconds=seconds))

    # -- finals and proof --

    def _run_finals(self) -> None:
        """Run the finalists again, in turns: single runs of one deployment differ by 10% on a shared machine."""
        ordered = self.trials.best_first(Stage.TUNE)
        best = self.trials.score(ordered[0]) if ordered else 0.0
        near = [t.deployment for t in ordered if not worse(self.trials.score(t), best, NEAR_THE_TOP)][:FINALISTS]
        held = self.trials.study.of_stage(Stage.FINAL)
        if len(near) < 2 or len(held) == len(near) * FINAL_ROUNDS:
            return
        self.listener.stage(f"Finals: {len(near)} near the top, in turns")
        with ExitStack() as kept:
            openers = [self._opener(deployment, kept) for deployment in near]
            for number, which in comparing.interleaved(len(near), FINAL_ROUNDS):
                self._run_final(near[which], openers[which], number)

    def _run_final(self, deployment: Deployment, opener: comparing.Opener, number: int) -> None:
        started = time.perf_counter()
        measurement, failure = None, None
        try:
            with ExitStack() as stack:
                load = self.screen_load().variant(number)
                measurement = self._speed(opener(stack), deployment, load, warm_with=self.tuning)
        except TRIAL_FAULTS as error:
            failure = str(error)
        seconds = time.perf_counter() - started
        notes = {"round": number}
        self.trials.record(Trial(Stage.FINAL, deployment, measurement, failure=failure, seconds=seconds, notes=notes))

    def _ranked(self) -> list[Deployment]:
        """The tuned deployments, best mean score first. A tie goes to smaller weights (the budget limits their loss),
        then to the default settings."""
        tuned = {trial.deployment.id: trial for trial in self.trials.survivors(Stage.TUNE)}
        means: dict[str, float] = {}
        for key, trial in tuned.items():
            runs = [t for t in self.trials.study.trials if t.key == (Stage.FINAL, key) and t.measurement]
            means[key] = float(np.mean([self.trials.score(t) for t in [trial, *runs]]))

        def preference(key: str) -> tuple[int, int]:
            deployment = tuned[key].deployment
            members = [c.settings for c in self.space.groups[deployment.group]]  # the defaults first
            return -len(finer_than(deployment.scheme)), members.index(deployment.settings)

        return [tuned[key].deployment for key in ranked(means, preference)]

    def _prove(self) -> tuple[Deployment | None, Proof | None, Verdict]:
        """Measure on the held-out half, best first, until one is accepted; groups that were not tuned come last."""
        last = Verdict()
        refused: set[Group] = set()
        for sentence in outlook(
            self.question.budget,
            self.held_out.requests,
            spread=self.trials.spread() or USUAL_SPREAD,
            attempt=self.attempts.following,
        ):
            self.listener.stage(sentence)
        for group in [None, *(t.deployment.group for t in self.trials.best_first(Stage.SCREEN))]:
            if group is not None:
                if group in refused or self.trials.find(Stage.TUNE, self.space.groups[group][0]) is not None:
                    continue
                self._tune_group(group)
            for deployment in self._ranked():
                if deployment.group in refused or (group is not None and deployment.group != group):
                    continue
                attempt = self.attempts.next(deployment).attempt
                if attempt > 1 and undecidable(self.question.budget, self.held_out.requests, attempt):
                    self.listener.stage("These requests can prove no further candidate: bring more of them.")
                    return None, None, last
                self.listener.stage(f"Proving on the held-out half: {deployment.short_label}")
                proof = self._prove_one(deployment)
                if proof is None:
                    continue
                last = self._judge(proof)
                if last.outcome is Outcome.ACCEPT:
                    return deployment, proof, last
                if proof[0].verdict.outcome is not Outcome.ACCEPT:
                    refused.add(deployment.group)  # settings move its quality by far less than its scheme did
        return None, None, last

    def _prove_one(self, deployment: Deployment) -> Proof | None:
        """Quality and speed on the held-out half; a fault is recorded and gives None."""
        known = self.trials.study.find(Stage.PROVE, deployment.id)
        if known is not None and known.measurement is not None:
            return Evaluation(known.measurement, self.trials.quality_verdict(known.measurement)), known.measurement
        started = time.perf_counter()
        try:
            with self.bench.open(deployment) as running:
                allowance = self.attempts.next(deployment)
                speed = self._repeated_speed(running, deployment, allowance)
                references = self.translation.translated(self.answers.of("held-out"), deployment)
                evaluation = self.bench.quality(running, self.held_out, references, allowance)
                kernels = list(self.bench.kernels(running))
        except TRIAL_FAULTS as error:
            seconds = time.perf_counter() - started
            self.trials.record(Trial(Stage.PROVE, deployment, failure=str(error), seconds=seconds))
            return None
        proof = evaluation, speed
        self.attempts.record(deployment, allowance, evaluation.verdict.outcome)
        notes = {"outcome": self._judge(proof).outcome, "kernels": kernels, "attempt": allowance.attempt}
        measurement, seconds = speed.joined(evaluation.measurement), time.perf_counter() - started
        self.trials.record(Trial(Stage.PROVE, deployment, measurement, seconds=seconds, notes=notes))
        return proof

    def _judge(self, proof: Proof) -> Verdict:
        evaluation, speed = proof
        return Verdict((*evaluation.verdict.limits, *self.trials.speed_verdict(speed).limits))

    def _speculate(self, chosen: Deployment, proof: Proof, verdict: Verdict) -> tuple[Deployment, Proof, Verdict]:
        """Find the load up to which speculative decoding is faster; use it if that includes the requested one."""
        speculative = speculating.with_speculation(chosen)
        if speculative is None:
            return chosen, proof, verdict
        paid = speculating.find_max_speculating_streams(
            self.trials, self.bench, self.tuning, chosen=chosen, speculative=speculative
        )
        chosen = replace(chosen, speculation_pays_up_to=paid)
        speculative = replace(speculative, speculation_pays_up_to=paid)
        proven = self._prove_one(speculative) if paid >= self.question.streams else None
        judged = self._judge(proven) if proven else None
        if proven and judged and judged.outcome is Outcome.ACCEPT:
            return speculative, proven, judged
        return chosen, proof, verdict

    # -- comparison --

    def _compare(self, chosen: Deployment, other: Deployment) -> Comparison | None:
        """Interleaved on the held-out half."""
        return comparisons.compare(
            self.trials,
            self.bench,
            (chosen, other),
            self.full_load(self.held_out),
            warm_with=self.tuning,
            ratio=self._token_ratio(chosen),
            opener=self._opener,
        )

    def _opener(self, deployment: Deployment, kept: ExitStack) -> comparing.Opener:
        """Opens the service once for all rounds where memory holds two of them, else for each round anew."""
        if 4 * self.question.model.weight_bytes > self.trials.hardware.memory_bytes / 2:
            return lambda stack: stack.enter_context(self.bench.open(deployment))
        return comparing.opened_once(lambda: self.bench.open(deployment), kept)

    # -- loads and inputs of the runs --

    def _speed(
        self, running: Any, deployment: Deployment, load: Workload, *, warm_with: Workload | None = None
    ) -> Measurement:
        """One run, counted in the baseline's tokens."""
        made = self.bench.speed(running, load, warm_with=warm_with)
        return in_other_tokens(made, self._token_ratio(deployment))

    def _repeated_speed(self, running: Any, deployment: Deployment, allowance: Allowance) -> Measurement:
        """Several runs on the held-out half, because limits are judged on a bound and not on one run's luck."""
        load = self.full_load(self.held_out)
        runs = [
            self._speed(running, deployment, load.variant(number), warm_with=self.tuning)
            for number in range(PROOF_RUNS)
        ]
        return combined(runs, allowance.error)

    def _token_ratio(self, deployment: Deployment) -> float:
        """Tokens per baseline token, over the held-out answers (the tuning half chose the vocabulary)."""
        return self.translation.tokens_per_baseline_token(deployment, self.answers.of("held-out").values())

    def screen_load(self) -> Workload:
        count = SCREEN_WAVES * self.question.streams
        return self.tuning.take(count, self.question.seed).at_least(count)

    def full_load(self, half: Workload) -> Workload:
        return half.at_least(FULL_WAVES * self.question.streams)

    def calibration(self) -> tuple[str, ...]:
        """The tuning half's prompts, each with what the baseline answered."""
        answers = self.answers.of("tuning")
        pairs = ((texts([r]), answers.get(r.id)) for r in self.tuning.requests)
        return tuple("\n\n".join([*text, answer.text if answer else ""]) for text, answer in pairs if text)

    def prompts(self) -> tuple[str, ...]:
        """The tuning half's prompts as the model reads them."""
        return self.answers.prompts()
