"""Model + workload + budget -> Study. The one loop: propose, predict, build, serve, measure, judge, record.

    baseline   serve the unmodified model on the reference engine; its answers are what candidates are held against
    screen     each engine and scheme with default settings: a short run and a first look at quality, tuning half
    tune       the settings of the best, one at a time
    prove      the best on the held-out half, until one is accepted
    compare    interleaved with the baseline and with the fastest unmodified engine
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pennyweight import techniques
from pennyweight.budget import Budget, Limit, Outcome, Verdict
from pennyweight.deployment import Deployment
from pennyweight.errors import EndpointError, EngineError, MeasurementVoid, ModelError, WorkloadError
from pennyweight.hardware import Hardware
from pennyweight.measure import compare as comparing
from pennyweight.measure import quality
from pennyweight.measure.client import Sampling
from pennyweight.measure.compare import Comparison
from pennyweight.measure.quality import Evaluation, Reference
from pennyweight.measure.speed import measure_speed
from pennyweight.measurement import Measurement
from pennyweight.model import Model
from pennyweight.plan.cost import Load
from pennyweight.search.candidates import Candidate, Space, finer_than, neighbours, predicted, propose
from pennyweight.serve import Endpoint, serve
from pennyweight.study import Study, Trial
from pennyweight.techniques.quantize import TUNED, Quantize
from pennyweight.workload import Arrivals, Workload, texts

SCREEN_LOOK = 32  # requests of a first look at quality
HOPELESS = 0.85  # a candidate that promises less than this share of the best one found is not built
WORTH_TUNING = 0.90  # groups within this share of the best have their settings tuned
WORTH_KEEPING = 1.01  # a setting must gain this much to be kept
SCREEN_SLACK = 1.25  # how far a short run may miss a limit and stay in
SPOILED_RETRIES = 2
# Waves of requests in a run: in the last one streams fall idle, and one wave would measure little else.
SCREEN_WAVES = 2
FULL_WAVES = 3
# What ends a trial and not the search. A full disk ends the search: every later trial would meet it too.
TRIAL_FAULTS = (EngineError, EndpointError, MeasurementVoid, ModelError, WorkloadError)


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

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model.id, "workload": self.workload.id, "budget": self.budget.as_json(),
            "streams": self.streams, "seed": self.seed, "engines": self.engines and list(self.engines),
            "schemes": self.schemes and list(self.schemes), "iterations": self.iterations, "exhaustive": self.exhaustive,
        }  # fmt: skip


class Listener(Protocol):
    """Who watches the search: the command line, or a test."""

    def stage(self, text: str) -> None: ...
    def progress(self, done: int, total: int) -> None: ...
    def trial(self, trial: Trial) -> None: ...


@dataclass(frozen=True)
class Answer:
    """What the search ends with. `chosen` is None when nothing meets the budget; then `nearest` says what came close."""

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
        return self.chosen is not None and self.chosen == self.fastest_unmodified


@dataclass
class Search:
    """One search in one output directory, which holds the study and the baseline's answers."""

    question: Question
    directory: Path
    hardware: Hardware
    listener: Listener
    resume: bool = False
    corrections: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        question = self.question
        self.tuning, self.held_out = question.workload.split(question.seed)
        self.study = Study(self.directory / "study.jsonl", question.as_json(), resume=self.resume)
        self.arrivals = Arrivals("closed", max_concurrency=question.streams)
        self.space = space_of(question, self.hardware)
        self.baseline = self._deployment(baseline_of(question), question.model)
        self.load = Load(100.0, float(np.mean([r.max_tokens for r in self.tuning.requests])), question.streams)

    # -- the loop --

    def run(self) -> Answer:
        started = time.perf_counter()
        self._measure_baseline()
        for group in self._ordered_groups():
            self._screen(group)
        if self.question.exhaustive:
            self._measure_everything()
        else:
            self._tune()
        chosen, evaluation, speed, verdict = self._prove()
        against_baseline = against_unmodified = None
        fastest = self._fastest_unmodified()
        if chosen is not None:
            against_baseline = self._compare(chosen, self.baseline)
            if fastest is not None:
                against_unmodified = self._compare(chosen, fastest)
        return Answer(
            chosen, self.baseline, fastest, evaluation, speed, verdict, against_baseline, against_unmodified,
            None if chosen else self._nearest(), self.space.refused, self.held_out, self.references["held-out"],
            time.perf_counter() - started,
        )  # fmt: skip

    # -- baseline --

    def _measure_baseline(self) -> None:
        """Speed of the baseline, and its answers to both halves. Without it there is nothing to hold anything against,
        so its faults end the search."""
        self.listener.stage(f"Baseline: {self.baseline.label}")
        halves = {"tuning": self.tuning, "held-out": self.held_out}
        self.references = {name: self._read_references(name) for name in halves}
        done = self.study.find("baseline", self.baseline.id)
        if done is not None and done.measurement is not None and all(self.references.values()):
            self._correct(baseline_of(self.question), done.measurement)
            return
        started = time.perf_counter()
        with self._serve(self.baseline) as endpoint:
            speed = self._speed(endpoint, self._screen_load())
            for name, half in halves.items():
                self.listener.stage(f"Baseline: answers to the {name} half")
                made = quality.references(endpoint, half.requests, self.listener.progress)
                self.references[name] = {reference.request_id: reference for reference in made}
                self._write_references(name)
        usual = self._predicted(baseline_of(self.question))
        self._correct(baseline_of(self.question), speed)
        self._record(Trial("baseline", self.baseline, speed, usual, seconds=time.perf_counter() - started))

    def _references_file(self, half: str) -> Path:
        return self.directory / f"baseline-{half}.jsonl"

    def _read_references(self, half: str) -> dict[str, Reference]:
        file = self._references_file(half)
        if not (self.resume and file.exists()):
            return {}
        made = (Reference.from_json(json.loads(line)) for line in file.read_text().splitlines())
        return {reference.request_id: reference for reference in made}

    def _write_references(self, half: str) -> None:
        lines = [json.dumps(reference.as_json()) for reference in self.references[half].values()]
        partial = self._references_file(half).with_suffix(".partial")
        partial.write_text("\n".join(lines) + "\n")
        partial.rename(self._references_file(half))

    # -- screen --

    def _ordered_groups(self) -> list[tuple[str, str]]:
        """Engine by engine from the most promising; in each, the finest scheme first, because what it loses and how
        fast it runs decides whether the coarser ones are worth building."""
        promise = {
            group: self.question.budget.score(self._predicted(members[0])) for group, members in self.space.groups.items()
        }
        best_of_engine = {engine: max(p for (e, _), p in promise.items() if e == engine) for engine, _ in promise}
        return sorted(promise, key=lambda g: (-best_of_engine[g[0]], len(finer_than(g[1]))))

    def _screen(self, group: tuple[str, str]) -> None:
        candidate = self.space.groups[group][0]
        hopeless = None if self.question.exhaustive else self._hopeless(candidate)
        if hopeless:
            self._record(Trial("skip", self._deployment(candidate, None), failure=hopeless))
            return
        def measure(endpoint: Endpoint) -> Measurement:
            speed = self._speed(endpoint, self._screen_load())
            self._correct(candidate, speed)
            look = quality.evaluate(
                endpoint, self.tuning.take(SCREEN_LOOK, self.question.seed), self.references["tuning"], self.question.budget, progress=self.listener.progress
            )
            return speed.joined(look.measurement)

        self._try("screen", candidate, measure)

    def _hopeless(self, candidate: Candidate) -> str | None:
        """Why this group is not worth building, from what was measured so far."""
        for scheme in finer_than(candidate.scheme):
            trial = self._trial("screen", self.space.groups.get((candidate.engine, scheme), (None,))[0])
            if trial and trial.measurement and self._quality(trial.measurement).outcome is Outcome.REJECT:
                return f"{scheme} on {candidate.engine} loses too much already ({self._quality(trial.measurement).reason})"
        best = max((self._score(t) for t in self._survivors("screen")), default=None)
        if best is None or candidate.engine not in self.corrections:
            return None
        promised = self.question.budget.score(self._predicted(candidate))
        if _worse(promised, best, HOPELESS):
            return f"promises {abs(promised):.4g} where {abs(best):.4g} was measured already"
        return None

    # -- tune --

    def _tune(self) -> None:
        """Coordinate ascent over the settings of the best groups, from their defaults."""
        survivors = sorted(self._survivors("screen"), key=self._score, reverse=True)
        if not survivors:
            return
        best = self._score(survivors[0])
        for trial in [t for t in survivors if not _worse(self._score(t), best, WORTH_TUNING)]:
            group = (trial.deployment.engine, trial.deployment.scheme)
            current = self.space.groups[group][0]
            held = self._measured(current)
            for name in current.settings:
                for other in neighbours(current, self.space.groups[group]):
                    if other.settings[name] == current.settings[name]:
                        continue
                    gained = self._measured(other)
                    if gained is not None and (held is None or _worse(held, gained, 1 / WORTH_KEEPING)):
                        current, held = other, gained

    def _measured(self, candidate: Candidate) -> float | None:
        """Its score over the whole tuning half; None when it failed or broke a limit."""
        trial = self._try("tune", candidate, lambda endpoint: self._speed(endpoint, self._full(self.tuning)))
        if trial.measurement is None:
            return None
        return self._score(trial) if self._speed_verdict(trial.measurement).outcome is Outcome.ACCEPT else None

    def _measure_everything(self) -> None:
        for candidate in self.space.candidates:
            self._measured(candidate)

    # -- prove --

    def _prove(self) -> tuple[Deployment | None, Evaluation | None, Measurement | None, Verdict]:
        """The best on the held-out half, the next best if it is not accepted, and so on."""
        last, too_lossy = Verdict(), set()
        for trial in sorted(self._survivors("tune"), key=self._score, reverse=True):
            group = (trial.deployment.engine, trial.deployment.scheme)
            if group in too_lossy:
                continue  # settings move its quality by far less than its scheme did
            self.listener.stage(f"Proving on the held-out half: {trial.deployment.label}")
            proof = self._prove_one(trial.deployment)
            if proof is None:
                continue
            evaluation, speed = proof
            last = self._judge_both(evaluation, speed)
            if last.outcome is Outcome.ACCEPT:
                return trial.deployment, evaluation, speed, last
            if evaluation.verdict.outcome is not Outcome.ACCEPT:
                too_lossy.add(group)
        return None, None, None, last

    def _prove_one(self, deployment: Deployment) -> tuple[Evaluation, Measurement] | None:
        """Quality and speed on the held-out half; a fault is recorded and gives None."""
        started = time.perf_counter()
        try:
            with self._serve(deployment) as endpoint:
                speed = self._speed(endpoint, self._full(self.held_out), warm_with=self.tuning)
                evaluation = quality.evaluate(
                    endpoint, self.held_out, self.references["held-out"], self.question.budget,
                    progress=self.listener.progress,
                )  # fmt: skip
        except TRIAL_FAULTS as error:
            self._record(Trial("prove", deployment, failure=str(error), seconds=time.perf_counter() - started))
            return None
        both = self._judge_both(evaluation, speed)
        notes = {"verdict": both.as_json()}
        measurement = speed.joined(evaluation.measurement)
        self._record(Trial("prove", deployment, measurement, seconds=time.perf_counter() - started, notes=notes))
        return evaluation, speed

    def _judge_both(self, evaluation: Evaluation, speed: Measurement) -> Verdict:
        return Verdict((*evaluation.verdict.limits, *self._speed_verdict(speed).limits))

    # -- compare --

    def _compare(self, chosen: Deployment, other: Deployment) -> Comparison | None:
        if chosen == other:
            return None
        self.listener.stage(f"How much faster than {other.label}?")
        started = time.perf_counter()

        def opener(deployment: Deployment) -> Callable[[ExitStack], Endpoint]:
            return lambda stack: stack.enter_context(self._serve(deployment))

        try:
            comparison = comparing.compare(
                opener(chosen), opener(other), self._full(self.held_out), self.arrivals, rounds=self.question.rounds,
                seed=self.question.seed, warm_with=self.tuning, progress=self.listener.progress,
            )  # fmt: skip
        except TRIAL_FAULTS as error:
            self._record(Trial("compare", other, failure=str(error), seconds=time.perf_counter() - started))
            return None
        notes = {"chosen": chosen.id, **comparison.as_json()}
        self._record(Trial("compare", other, seconds=time.perf_counter() - started, notes=notes))
        return comparison

    def _fastest_unmodified(self) -> Deployment | None:
        """Of all unmodified candidates that ran, the one with the highest throughput in the screen."""
        runs = [
            t for t in self.study.trials
            if t.stage == "screen" and t.measurement is not None
            and (t.deployment.engine, t.deployment.scheme) in self.space.groups
            and self.space.groups[(t.deployment.engine, t.deployment.scheme)][0].unmodified
        ]  # fmt: skip
        if not runs:
            return None
        best = max(runs, key=lambda t: t.measurement["output_throughput"] if t.measurement else 0.0).deployment
        tuned = [t for t in self._survivors("tune") if (t.deployment.engine, t.deployment.scheme) == (best.engine, best.scheme)]
        return max(tuned, key=self._score).deployment if tuned else best

    def _nearest(self) -> Trial | None:
        """The measured trial that misses its limits by the least, counted in shares of the bounds."""
        budget = self.question.budget

        def miss(trial: Trial) -> float:
            total = 0.0
            for limit in (*budget.quality_limits, *budget.speed_limits):
                value = trial.measurement.get(limit.quantity) if trial.measurement else None
                total += max(0.0, -limit.margin(value)) if value is not None else 10.0
            return total

        tried = [t for t in self.study.trials if t.measurement is not None and t.stage in ("screen", "prove")]
        return min(tried, key=miss, default=None)

    # -- one trial --

    def _try(self, stage: str, candidate: Candidate, measure: Callable[[Endpoint], Measurement]) -> Trial:
        """Build, serve, measure, record; what is in the study already is not done again."""
        known = self._trial(stage, candidate)
        if known is not None:
            if known.measurement is not None and stage == "screen":
                self._correct(candidate, known.measurement)
            return known
        self.listener.stage(f"{stage.capitalize()}: {candidate.label}")
        started = time.perf_counter()
        promise = self._predicted(candidate)
        deployment = self._deployment(candidate, None)
        try:
            deployment = self._deployment(candidate, self._build(candidate))
            with self._serve(deployment) as endpoint:
                measurement = measure(endpoint)
        except TRIAL_FAULTS as error:
            seconds = time.perf_counter() - started
            return self._record(Trial(stage, deployment, None, promise, str(error), seconds))
        return self._record(Trial(stage, deployment, measurement, promise, None, time.perf_counter() - started))

    def _build(self, candidate: Candidate) -> Model:
        return build_scheme(
            self.question.model, candidate.scheme, self.question.iterations, self._calibration(), self.listener.progress
        )

    def _calibration(self) -> tuple[str, ...]:
        """The tuning half's prompts, each with what the baseline answered."""
        answers = self.references.get("tuning", {})
        pairs = ((texts([r]), answers.get(r.id)) for r in self.tuning.requests)
        return tuple("\n\n".join([*text, answer.text if answer else ""]) for text, answer in pairs if text)

    def _speed(self, endpoint: Endpoint, workload: Workload, warm_with: Workload | None = None) -> Measurement:
        """One run; a run that spoiled itself is repeated before it is given up."""
        for attempt in range(SPOILED_RETRIES + 1):
            try:
                return measure_speed(
                    endpoint, workload, self.arrivals, Sampling(), seed=self.question.seed, warm_with=warm_with,
                    price_per_hour=self.question.budget.price_per_hour, progress=self.listener.progress,
                )  # fmt: skip
            except MeasurementVoid:
                if attempt == SPOILED_RETRIES:
                    raise
        raise AssertionError("unreachable")

    def _serve(self, deployment: Deployment) -> Any:
        log = self.directory / "logs" / f"{deployment.engine}-{deployment.id}.log"
        return serve(deployment, log=log, start_timeout=self.question.start_timeout)

    def _record(self, trial: Trial) -> Trial:
        self.study.append(trial)
        self.listener.trial(trial)
        return trial

    # -- small questions --

    def _screen_load(self) -> Workload:
        streams = self.question.streams
        return self.tuning.take(SCREEN_WAVES * streams, self.question.seed).at_least(SCREEN_WAVES * streams)

    def _full(self, half: Workload) -> Workload:
        return half.at_least(FULL_WAVES * self.question.streams)

    def _deployment(self, candidate: Candidate, model: Model | None) -> Deployment:
        path, model_id = (str(model.path), model.id) if model else ("", "")
        return Deployment(candidate.engine, path, model_id, candidate.scheme, candidate.settings)

    def _trial(self, stage: str, candidate: Candidate | None) -> Trial | None:
        if candidate is None:
            return None
        wanted = self._deployment(candidate, None)
        for trial in reversed(self.study.trials):
            if trial.stage == stage and replace(trial.deployment, model_path="", model_id="") == wanted:
                return trial
        return None

    def _survivors(self, stage: str) -> list[Trial]:
        """Trials of this stage that ran and broke no limit for certain."""
        return [t for t in self.study.trials if t.stage == stage and t.measurement and self._holds(t)]

    def _holds(self, trial: Trial) -> bool:
        assert trial.measurement is not None
        screened = self._trial("screen", self.space.groups[(trial.deployment.engine, trial.deployment.scheme)][0])
        if screened is None or screened.measurement is None:
            return False
        if self._quality(screened.measurement).outcome is Outcome.REJECT:
            return False
        slack = SCREEN_SLACK if trial.stage == "screen" else 1.0
        limits = tuple(Limit(x.quantity, x.bound * slack, x.floor) for x in self.question.budget.speed_limits)
        return self.question.budget.judge_limits(trial.measurement, limits).outcome is Outcome.ACCEPT

    def _quality(self, measurement: Measurement) -> Verdict:
        return self.question.budget.judge_limits(measurement, self.question.budget.quality_limits)

    def _speed_verdict(self, measurement: Measurement) -> Verdict:
        return self.question.budget.judge_limits(measurement, self.question.budget.speed_limits)

    def _score(self, trial: Trial) -> float:
        return self.question.budget.score(trial.measurement) if trial.measurement else float("-inf")

    def _predicted(self, candidate: Candidate) -> Measurement:
        return predicted(candidate, self.question.model, self.hardware, self.load, self.corrections)

    def _correct(self, candidate: Candidate, measurement: Measurement) -> None:
        """Learn from a measured run how far the cost model is off for this engine."""
        tokens = measurement.quantities["output_tokens"]
        self.load = Load(self.load.prompt_tokens, tokens.value / max(1, len(tokens.raw)), self.load.streams)
        uncorrected = predicted(candidate, self.question.model, self.hardware, self.load, {})
        self.corrections[candidate.engine] = uncorrected["output_throughput"] / measurement["output_throughput"]


def baseline_of(question: Question) -> Candidate:
    """The unmodified model on the reference engine."""
    return Candidate("transformers", question.model.scheme, {"max_num_seqs": question.streams})


def space_of(question: Question, hardware: Hardware) -> Space:
    return propose(question.model, hardware, question.streams, question.engines, question.schemes)


def build_scheme(
    model: Model, scheme: str, iterations: int, calibration: Sequence[str], progress: techniques.Progress
) -> Model:
    """The model in this scheme: itself, or an artifact from the cache or built now."""
    if scheme == model.scheme:
        return model
    tuned = scheme in TUNED
    technique = Quantize(scheme, iterations if tuned else 0, tuple(calibration) if tuned else ())
    return techniques.apply(technique, model, progress)


def _worse(score: float, best: float, share: float) -> bool:
    """Is a score below this share of the best? Scores of lower-is-better objectives are negative."""
    return score < best * share if best > 0 else score < best / share
