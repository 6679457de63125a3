"""Model + workload + budget -> Study. The one loop: propose, predict, build, serve, measure, judge, record.

baseline   serve the unmodified model on the reference engine; its answers are what candidates are held against
screen     each engine and scheme with default settings: a short run and a first look at quality, tuning half
tune       the settings of the best, one at a time
final      those near the top again, interleaved, because one run cannot rank near ties
prove      the best on the held-out half, until one is accepted
speculate  on request: the load up to which guesses ahead pay; the same with them where they do, and proven again
compare    interleaved with the baseline and with the fastest unmodified engine
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pennyweight.budget import Outcome, Verdict
from pennyweight.deployment import Deployment
from pennyweight.measure import compare as comparing
from pennyweight.measure import quality
from pennyweight.measure.compare import Comparison
from pennyweight.measure.quality import Evaluation
from pennyweight.measurement import Measurement
from pennyweight.search import speculating
from pennyweight.search.candidates import UNMODIFIED, Candidate, Group, finer_than, is_unmodified, neighbours
from pennyweight.search.question import Answer, Listener, Question, baseline_of, space_of
from pennyweight.search.trials import TRIAL_FAULTS, Workbench
from pennyweight.serve import catalogue
from pennyweight.serve.opening import Endpoint
from pennyweight.study import Trial

__all__ = ["Answer", "Listener", "Question", "Search", "baseline_of", "space_of"]

SCREEN_LOOK = 32  # requests of a first look at quality
# A candidate that promises less than this share of the best one found is not built; of an engine that was not measured
# yet, the promise is worth less.
HOPELESS = 0.85
HOPELESS_UNSEEN = 0.40
# What a coarser scheme must promise of a finer one's score to be built.
WORTH_QUANTIZING = 0.97
WORTH_LOSING = 1.03
WORTH_TUNING = 0.95  # groups within this share of the best have their settings tuned
WORTH_KEEPING = 1.01  # a setting must gain this much to be kept
FINALISTS = 4  # at most, and only those within this share of the best
NEAR_THE_TOP = 0.85
FINAL_ROUNDS = 2
TIE = 0.97  # within this share of the best mean: the smaller weights win, then the default settings


@dataclass
class Search(Workbench):
    """The loop."""

    def run(self) -> Answer:
        self._measure_baseline()
        for group in self._ordered_groups():
            self._screen(group)
        if self.question.exhaustive:
            self._measure_everything()
        else:
            self._tune()
        self._run_finals()
        chosen, evaluation, speed, verdict = self._prove()
        if self.question.speculate and chosen is not None and evaluation is not None and speed is not None:
            chosen, evaluation, speed, verdict = self._speculate(chosen, evaluation, speed, verdict)
        against_baseline = against_unmodified = None
        fastest = self.fastest_unmodified()
        nearest = None if chosen else self.nearest()
        if nearest is not None and nearest.measurement is not None and not verdict.limits:
            verdict = self.question.budget.judge(nearest.measurement)
        if chosen is not None:
            against_baseline = self._compare(chosen, self.baseline)
            if fastest is not None:
                against_unmodified = self._compare(chosen, fastest)
        return Answer(
            chosen,
            self.baseline,
            fastest,
            evaluation,
            speed,
            verdict,
            against_baseline,
            against_unmodified,
            nearest,
            self.space.refused,
            self.held_out,
            self.in_its_tokens("held-out", chosen) if chosen else self.references["held-out"],
            sum(trial.seconds for trial in self.study.trials),
        )

    def _measure_baseline(self) -> None:
        """Speed of the baseline, and its answers to both halves. Without it there is nothing to hold anything against,
        so its faults end the search."""
        self.listener.stage(f"Baseline: {self.baseline.label}")
        halves = {"tuning": self.tuning.take(SCREEN_LOOK, self.question.seed), "held-out": self.held_out}
        self.references = {name: self.read_references(name) for name in halves}
        done = self.study.find("baseline", self.baseline.id)
        if done is not None and done.measurement is not None and all(self.references.values()):
            self.correct(baseline_of(self.question), done.measurement)
            return
        started = time.perf_counter()
        with self.serve(self.baseline) as endpoint:
            speed = self.speed(endpoint, self.baseline, self.screen_load())
            for name, half in halves.items():
                self.listener.stage(f"Baseline: answers to the {name} half")
                made = quality.references(endpoint, half.requests, self.listener.progress)
                self.references[name] = {reference.request_id: reference for reference in made}
                self.write_references(name)
        usual = self.predicted(baseline_of(self.question))
        self.correct(baseline_of(self.question), speed)
        self.record(Trial("baseline", self.baseline, speed, usual, seconds=time.perf_counter() - started))

    def _ordered_groups(self) -> list[Group]:
        """Engine by engine from the most promising; in each, the shortest recipe and the finest scheme first, because
        what they lose and how fast they run decides whether the others are worth building."""
        promise = {
            group: self.question.budget.score(self.predicted(members[0]))
            for group, members in self.space.groups.items()
        }
        best_of_engine = {engine: max(p for g, p in promise.items() if g[0] == engine) for engine, *_ in promise}

        def order(group: Group) -> tuple[float, int, int]:
            steps = len(self.space.groups[group][0].recipe.steps)
            return -best_of_engine[group[0]], steps, len(finer_than(group[1]))

        return sorted(promise, key=order)

    def _screen(self, group: Group) -> None:
        candidate = self.space.groups[group][0]
        if self.find("skip", candidate) is not None:
            return  # decided before this search was resumed
        known = self.find("screen", candidate) is not None
        hopeless = None if known or self.question.exhaustive else self._hopeless(candidate)
        if hopeless:
            self.record(Trial("skip", self.deployment(candidate, None), failure=hopeless))
            return

        def measure(endpoint: Endpoint, deployment: Deployment) -> Measurement:
            speed = self.speed(endpoint, deployment, self.screen_load())
            self.correct(candidate, speed)
            look = quality.evaluate(
                endpoint,
                self.tuning.take(SCREEN_LOOK, self.question.seed),
                self.in_its_tokens("tuning", deployment),
                self.question.budget,
                progress=self.listener.progress,
            )
            return speed.joined(look.measurement)

        self.attempt("screen", candidate, measure)

    def _hopeless(self, candidate: Candidate) -> str | None:
        """Why this group is not worth building, from what was measured so far."""
        if candidate.engine == catalogue.REMOTE:
            return None  # nothing is built, and our machine's limits say nothing of it
        for trial in self._screened_with(candidate.recipe.name):
            engine, scheme, _ = trial.deployment.group
            # A recipe loses on one engine what it loses on another; a scheme's loss is its engine's.
            same = engine == candidate.engine and scheme in finer_than(candidate.scheme)
            if trial.measurement is None or not (same or (candidate.recipe.steps and scheme in UNMODIFIED)):
                continue
            verdict = self.quality_verdict(trial.measurement)
            if verdict.outcome is Outcome.REJECT:
                return f"{trial.deployment.scheme} on {engine} loses too much already ({verdict.reason})"
        survivors = self.survivors("screen")
        if not survivors:
            return None
        share = HOPELESS if candidate.kernels in self.corrections else HOPELESS_UNSEEN
        best = max(self.score(t) for t in survivors)
        promised = self.question.budget.score(self.predicted(candidate))
        for trial in survivors:
            held, finer = self.score(trial), trial.deployment
            if finer.engine != candidate.engine or finer.recipe != candidate.recipe.name:
                continue
            if finer.scheme not in finer_than(candidate.scheme):
                continue
            if _worse(promised, held, WORTH_QUANTIZING if finer.scheme in UNMODIFIED else WORTH_LOSING):
                return f"promises {abs(promised):.4g}, and {finer.scheme}, which loses less, has {abs(held):.4g}"
        if _worse(promised, best, share):
            return f"promises {abs(promised):.4g} where {abs(best):.4g} was measured already"
        return None

    def _screened_with(self, recipe: str) -> list[Trial]:
        return [t for t in self.study.trials if t.stage == "screen" and t.deployment.recipe == recipe]

    def _tune(self) -> None:
        """Tune the groups near the best, and the fastest unmodified one, so that nobody is compared with defaults."""
        survivors = sorted(self.survivors("screen"), key=self.score, reverse=True)
        unmodified = [t for t in survivors if is_unmodified(t.deployment.group)]
        for trial in survivors:
            near = not _worse(self.score(trial), self.score(survivors[0]), WORTH_TUNING)
            if near or trial in unmodified[:1]:
                self._tune_group(trial.deployment.group)

    def _tune_group(self, group: Group) -> None:
        """Coordinate ascent over its settings, from their defaults."""
        current = self.space.groups[group][0]
        held = self._measured(current)
        for name in current.settings:
            if name == "max_num_seqs" and held is not None and self.question.budget.objective == "throughput":
                continue  # a smaller batch buys latency, and the limits hold without it
            others = neighbours(current, self.space.groups[group])
            for other in [o for o in others if o.settings[name] != current.settings[name]]:
                gained = self._measured(other)
                if gained is not None and (held is None or _worse(held, gained, 1 / WORTH_KEEPING)):
                    current, held = other, gained

    def _measured(self, candidate: Candidate) -> float | None:
        """Its score in a short run; None when it failed or broke a limit."""
        trial = self.attempt("tune", candidate, lambda endpoint, own: self.speed(endpoint, own, self.screen_load()))
        if trial.measurement is None:
            return None
        return self.score(trial) if self.speed_verdict(trial.measurement).outcome is Outcome.ACCEPT else None

    def _measure_everything(self) -> None:
        for candidate in self.space.candidates:
            self._measured(candidate)

    def _run_finals(self) -> None:
        """Run the finalists again, in turns: single runs of one deployment differ by 10% on a shared machine."""
        ranked = sorted(self.survivors("tune"), key=self.score, reverse=True)
        best = self.score(ranked[0]) if ranked else 0.0
        near = [t.deployment for t in ranked if not _worse(self.score(t), best, NEAR_THE_TOP)][:FINALISTS]
        held = [t for t in self.study.trials if t.stage == "final"]
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
                measurement = self.speed(opener(stack), deployment, load, warm_with=self.tuning)
        except TRIAL_FAULTS as error:
            failure = str(error)
        seconds = time.perf_counter() - started
        self.record(Trial("final", deployment, measurement, failure=failure, seconds=seconds, notes={"round": number}))

    def _ranked(self) -> list[Deployment]:
        """What was tuned, best first, by the mean of all its runs; a tie goes to the smaller weights (the budget says
        what may be lost for them), then to the default settings."""
        tuned = {trial.deployment.id: trial for trial in self.survivors("tune")}
        means: dict[str, float] = {}
        for key, trial in tuned.items():
            runs = [t for t in self.study.trials if t.key == ("final", key)]
            means[key] = float(np.mean([self.score(t) for t in [trial, *runs]]))

        def preference(key: str) -> tuple[int, int]:
            deployment = tuned[key].deployment
            return -len(finer_than(deployment.scheme)), self._place(deployment)

        return [tuned[key].deployment for key in ranked(means, preference)]

    def _place(self, deployment: Deployment) -> int:
        """Where it stands in its group, whose first member has the default settings."""
        return [c.settings for c in self.space.groups[deployment.group]].index(deployment.settings)

    def _prove(self) -> tuple[Deployment | None, Evaluation | None, Measurement | None, Verdict]:
        """The best on the held-out half, the next best if it is not accepted; then the groups that were not tuned."""
        last = Verdict()
        refused: set[Group] = set()
        for group in [None, *self._groups_by_screen()]:
            if group is not None and (group in refused or self._tuned(group)):
                continue
            if group is not None:
                self._tune_group(group)
            for deployment in self._ranked():
                if deployment.group in refused or (group is not None and deployment.group != group):
                    continue
                self.listener.stage(f"Proving on the held-out half: {deployment.label}")
                proof = self._prove_one(deployment)
                if proof is None:
                    continue
                evaluation, speed = proof
                last = self._judge_both(evaluation, speed)
                if last.outcome is Outcome.ACCEPT:
                    return deployment, evaluation, speed, last
                if evaluation.verdict.outcome is not Outcome.ACCEPT:
                    refused.add(deployment.group)  # settings move its quality by far less than its scheme did
        return None, None, None, last

    def _speculate(
        self, chosen: Deployment, evaluation: Evaluation, speed: Measurement, verdict: Verdict
    ) -> tuple[Deployment, Evaluation, Measurement, Verdict]:
        """Told up to which load guesses pay; with them where they pay at ours and it is accepted so."""
        guessed = speculating.guessing(chosen)
        if guessed is None:
            return chosen, evaluation, speed, verdict
        paid = speculating.find_crossover(self, chosen, guessed)
        chosen, guessed = replace(chosen, guesses_pay_up_to=paid), replace(guessed, guesses_pay_up_to=paid)
        proof = self._prove_one(guessed) if paid >= self.question.streams else None
        judged = self._judge_both(*proof) if proof else None
        if proof and judged and judged.outcome is Outcome.ACCEPT:
            return (guessed, *proof, judged)
        return chosen, evaluation, speed, verdict

    def _groups_by_screen(self) -> list[Group]:
        trials = sorted(self.survivors("screen"), key=self.score, reverse=True)
        return [t.deployment.group for t in trials]

    def _tuned(self, group: Group) -> bool:
        return self.find("tune", self.space.groups[group][0]) is not None

    def _prove_one(self, deployment: Deployment) -> tuple[Evaluation, Measurement] | None:
        """Quality and speed on the held-out half; a fault is recorded and gives None."""
        known = self.study.find("prove", deployment.id)
        if known is not None and known.measurement is not None:
            return Evaluation(known.measurement, self.quality_verdict(known.measurement)), known.measurement
        started = time.perf_counter()
        try:
            with self.serve(deployment) as endpoint:
                speed = self.speed(endpoint, deployment, self.full_load(self.held_out), warm_with=self.tuning)
                evaluation = quality.evaluate(
                    endpoint,
                    self.held_out,
                    self.in_its_tokens("held-out", deployment),
                    self.question.budget,
                    progress=self.listener.progress,
                )
                kernels = list(endpoint.kernels())
        except TRIAL_FAULTS as error:
            self.record(Trial("prove", deployment, failure=str(error), seconds=time.perf_counter() - started))
            return None
        notes = {"verdict": self._judge_both(evaluation, speed).as_json(), "kernels": kernels}
        measurement = speed.joined(evaluation.measurement)
        self.record(Trial("prove", deployment, measurement, seconds=time.perf_counter() - started, notes=notes))
        return evaluation, speed

    def _judge_both(self, evaluation: Evaluation, speed: Measurement) -> Verdict:
        return Verdict((*evaluation.verdict.limits, *self.speed_verdict(speed).limits))

    def _compare(self, chosen: Deployment, other: Deployment) -> Comparison | None:
        """Interleaved on the held-out half; None when there is nothing to compare or it could not be measured."""
        if chosen == other:
            return None
        known = self.study.find("compare", other.id)
        if known is not None and known.notes.get("chosen") == chosen.id:
            return Comparison.from_json(known.notes)
        self.listener.stage(f"How much faster than {other.label}?")
        started = time.perf_counter()
        try:
            with ExitStack() as kept:
                comparison = comparing.compare(
                    self._opener(chosen, kept),
                    self._opener(other, kept),
                    self.full_load(self.held_out),
                    self.arrivals,
                    rounds=self.question.rounds,
                    seed=self.question.seed,
                    warm_with=self.tuning,
                    progress=self.listener.progress,
                ).in_other_tokens(self.growth(chosen))
        except TRIAL_FAULTS as error:
            self.record(Trial("compare", other, failure=str(error), seconds=time.perf_counter() - started))
            return None
        notes = {"chosen": chosen.id, **comparison.as_json()}
        self.record(Trial("compare", other, seconds=time.perf_counter() - started, notes=notes))
        return comparison

    def _opener(self, deployment: Deployment, kept: ExitStack) -> comparing.Opener:
        """Starts the server once for all rounds where memory holds two of them, else for each round anew."""
        if 4 * self.question.model.weight_bytes > self.hardware.memory_bytes / 2:
            return lambda stack: stack.enter_context(self.serve(deployment))
        return comparing.opened_once(lambda: self.serve(deployment), kept)


def ranked(means: Mapping[str, float], preference: Callable[[str], Any]) -> list[str]:
    """Names, best score first; of those that tie with the best that is left, the one with the lowest preference."""
    left, order = sorted(means, key=lambda name: means[name], reverse=True), list[str]()
    while left:
        order.append(min((n for n in left if not _worse(means[n], means[left[0]], TIE)), key=preference))
        left.remove(order[-1])
    return order


def _worse(score: float, best: float, share: float) -> bool:
    """Is a score below this share of the best? Scores of lower-is-better objectives are negative."""
    return score < best * share if best > 0 else score < best / share
