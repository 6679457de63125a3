"""Where trials are made: build, serve, measure, judge and record one candidate. The loop stands in `search`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pennyweight import techniques
from pennyweight.budget import Limit, Outcome, Verdict
from pennyweight.deployment import Deployment
from pennyweight.errors import EndpointError, EngineError, MeasurementVoid, ModelError, UsageError, WorkloadError
from pennyweight.hardware import Hardware
from pennyweight.measure import quality
from pennyweight.measure.client import Sampling
from pennyweight.measure.quality import Reference
from pennyweight.measure.speed import in_other_tokens, measure_speed
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.model import Model
from pennyweight.plan.cost import Load
from pennyweight.search.candidates import Candidate, is_unmodified, predicted
from pennyweight.search.question import Listener, Question, baseline_of, space_of
from pennyweight.serve import catalogue
from pennyweight.serve.opening import Endpoint, serve
from pennyweight.study import Study, Trial
from pennyweight.techniques.base import Progress
from pennyweight.techniques.quantize import CALIBRATED, TUNABLE, Quantize
from pennyweight.tokenizer import Tokenizer, Translation, growth, translation
from pennyweight.workload import Arrivals, Workload, texts

SCREEN_SLACK = 1.25  # how far a short run may miss a limit and stay in
SPOILED_RETRIES = 2
# Waves of requests in a run: in the last one streams fall idle, and one wave would measure little else.
SCREEN_WAVES = 2
FULL_WAVES = 3
# What ends a trial and not the search. A full disk ends the search: every later trial would meet it too.
TRIAL_FAULTS = (EngineError, EndpointError, MeasurementVoid, ModelError, UsageError, WorkloadError)


@dataclass
class Workbench:
    """One search's directory, study and machine, and the baseline's answers by half."""

    question: Question
    directory: Path
    hardware: Hardware
    listener: Listener
    resume: bool = False
    corrections: dict[str, float] = field(default_factory=dict)  # kernels -> measured time over predicted
    references: dict[str, dict[str, Reference]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        question = self.question
        self.tuning, self.held_out = question.workload.split(question.seed)
        self.tokenizer = Tokenizer(question.model.path)
        self._translations: dict[str, Translation | None] = {}  # by model path, as the next
        self._growths: dict[str, float] = {}
        self.arrivals = Arrivals("closed", max_concurrency=question.streams)
        self.space = space_of(question, self.hardware)
        self.study = Study(self.directory / "study.jsonl", question.as_json(), resume=self.resume)
        self.baseline = self.deployment(baseline_of(question), question.model)
        self.load = Load(100.0, float(np.mean([r.max_tokens for r in self.tuning.requests])), question.streams)

    def references_file(self, half: str) -> Path:
        return self.directory / f"baseline-{half}.jsonl"

    def read_references(self, half: str) -> dict[str, Reference]:
        file = self.references_file(half)
        if not (self.resume and file.exists()):
            return {}
        made = (Reference.from_json(json.loads(line)) for line in file.read_text().splitlines())
        return {reference.request_id: reference for reference in made}

    def write_references(self, half: str) -> None:
        lines = [json.dumps(reference.as_json()) for reference in self.references[half].values()]
        partial = self.references_file(half).with_suffix(".partial")
        partial.write_text("\n".join(lines) + "\n")
        partial.rename(self.references_file(half))

    def attempt(
        self, stage: str, candidate: Candidate, measure: Callable[[Endpoint, Deployment], Measurement]
    ) -> Trial:
        """Build, serve, measure, record; what is in the study already is not done again."""
        known = self.find(stage, candidate)
        if known is not None:
            if known.measurement is not None and stage == "screen":
                self.correct(candidate, known.measurement)
            return known
        self.listener.stage(f"{stage.capitalize()}: {candidate.label}")
        started = time.perf_counter()
        promise = self.predicted(candidate)
        deployment = self.deployment(candidate, None)
        try:
            deployment = self.deployment(candidate, self.build(candidate))
            with self.serve(deployment) as endpoint:
                measurement = measure(endpoint, deployment)
        except TRIAL_FAULTS as error:
            seconds = time.perf_counter() - started
            return self.record(Trial(stage, deployment, None, promise, str(error), seconds))
        return self.record(Trial(stage, deployment, measurement, promise, None, time.perf_counter() - started))

    def build(self, candidate: Candidate) -> Model:
        if candidate.engine == catalogue.REMOTE:  # whatever it serves is not ours to build
            return self.question.model
        made = candidate.recipe.build(self.question.model, self.calibration(), self.prompts(), self.listener.progress)
        return build_scheme(
            made,
            candidate.engine,
            candidate.scheme,
            self.question.iterations,
            self.calibration(),
            self.listener.progress,
        )

    def calibration(self) -> tuple[str, ...]:
        """The tuning half's prompts, each with what the baseline answered."""
        answers = self.references.get("tuning", {})
        pairs = ((texts([r]), answers.get(r.id)) for r in self.tuning.requests)
        return tuple("\n\n".join([*text, answer.text if answer else ""]) for text, answer in pairs if text)

    def prompts(self) -> tuple[str, ...]:
        """The tuning half's prompts as the model reads them."""
        return tuple(self.tokenizer.prompt_text(request) for request in self.tuning.requests)

    def translation(self, deployment: Deployment) -> Translation | None:
        """The baseline's tokens in this deployment's, where its vocabulary is another."""
        if deployment.model_path not in self._translations:
            made = translation(self.question.model.path, Path(deployment.model_path)) if deployment.recipe else None
            self._translations[deployment.model_path] = made
        return self._translations[deployment.model_path]

    def in_its_tokens(self, half: str, deployment: Deployment) -> Mapping[str, Reference]:
        """The baseline's answers as this deployment spells them."""
        translate, held = self.translation(deployment), self.references[half]
        return {key: r.translated(translate) for key, r in held.items()} if translate else held

    def growth(self, deployment: Deployment) -> float:
        """How many of this deployment's tokens one of the baseline's takes. Over the held-out answers: the vocabulary
        was chosen by the tuning half's."""
        if self.translation(deployment) is None:
            return 1.0
        if deployment.model_path not in self._growths:
            answers = [reference.text for reference in self.references["held-out"].values()]
            made = growth(self.question.model.path, Path(deployment.model_path), answers)
            self._growths[deployment.model_path] = made
        return self._growths[deployment.model_path]

    def speed(
        self, endpoint: Endpoint, deployment: Deployment, workload: Workload, warm_with: Workload | None = None
    ) -> Measurement:
        """One run, in the baseline's tokens; a run that spoiled itself is repeated before it is given up."""
        for attempt in range(SPOILED_RETRIES + 1):
            try:
                made = measure_speed(
                    endpoint,
                    workload,
                    self.arrivals,
                    Sampling(),
                    seed=self.question.seed,
                    warm_with=warm_with,
                    price_per_hour=self.question.budget.price_per_hour,
                    progress=self.listener.progress,
                )
                if made["failed_requests"]:  # a server of others may lose some: it cannot be proven on the rest
                    raise EndpointError(f"{made['failed_requests']:.0f} requests failed under load.")
                return in_other_tokens(made, self.growth(deployment))
            except MeasurementVoid:
                if attempt == SPOILED_RETRIES:
                    raise
        raise AssertionError("unreachable")

    def serve(self, deployment: Deployment) -> AbstractContextManager[Endpoint]:
        log = self.directory / "logs" / f"{deployment.engine}-{deployment.id}.log"
        return serve(deployment, log=log, start_timeout=self.question.start_timeout)

    def record(self, trial: Trial) -> Trial:
        self.study.append(trial)
        self.listener.trial(trial)
        return trial

    def screen_load(self) -> Workload:
        streams = self.question.streams
        return self.tuning.take(SCREEN_WAVES * streams, self.question.seed).at_least(SCREEN_WAVES * streams)

    def full_load(self, half: Workload) -> Workload:
        return half.at_least(FULL_WAVES * self.question.streams)

    def deployment(self, candidate: Candidate, model: Model | None) -> Deployment:
        path, model_id = (str(model.path), model.id) if model else ("", "")
        return Deployment(
            candidate.engine, path, model_id, candidate.scheme, candidate.settings, recipe=candidate.recipe.name
        )

    def find(self, stage: str, candidate: Candidate | None) -> Trial | None:
        if candidate is None:
            return None
        wanted = self.deployment(candidate, None)
        for trial in reversed(self.study.trials):
            if trial.stage == stage and replace(trial.deployment, model_path="", model_id="") == wanted:
                return trial
        return None

    def predicted(self, candidate: Candidate) -> Measurement:
        promise = predicted(candidate, self.question.model, self.hardware, self.load, self.corrections)
        price = self.question.budget.price_per_hour
        if price is None:
            return promise
        dollars = price / 3600 / promise["output_throughput"] * 1e6
        quantity = Quantity("dollars_per_million_tokens", dollars, "$", "lower", predicted=True)
        return promise.joined(collect(promise.subject, [quantity]))

    def correct(self, candidate: Candidate, measurement: Measurement) -> None:
        """Learn from a measured run how far the cost model is off for these kernels."""
        tokens = measurement.quantities["output_tokens"]
        requests = max(1, len(tokens.raw))
        prompts = measurement["total_throughput"] * measurement["duration_s"] - tokens.value
        self.load = Load(prompts / requests, tokens.value / requests, self.load.streams)
        uncorrected = predicted(candidate, self.question.model, self.hardware, self.load, {})
        self.corrections[candidate.kernels] = uncorrected["output_throughput"] / measurement["output_throughput"]

    def survivors(self, stage: str) -> list[Trial]:
        """Trials of this stage that ran and broke no limit for certain."""
        return [t for t in self.study.trials if t.stage == stage and t.measurement and self.holds(t)]

    def holds(self, trial: Trial) -> bool:
        assert trial.measurement is not None
        screened = self.find("screen", self.space.groups[trial.deployment.group][0])
        if screened is None or screened.measurement is None:
            return False
        if self.quality_verdict(screened.measurement).outcome is Outcome.REJECT:
            return False
        slack = SCREEN_SLACK if trial.stage == "screen" else 1.0
        limits = tuple(Limit(x.quantity, x.bound * slack, x.floor) for x in self.question.budget.speed_limits)
        return self.question.budget.judge_limits(trial.measurement, limits).outcome is Outcome.ACCEPT

    def quality_verdict(self, measurement: Measurement) -> Verdict:
        return quality.judge(self.question.budget, measurement)

    def speed_verdict(self, measurement: Measurement) -> Verdict:
        return self.question.budget.judge_limits(measurement, self.question.budget.speed_limits)

    def score(self, trial: Trial) -> float:
        return self.question.budget.score(trial.measurement) if trial.measurement else float("-inf")

    def fastest_unmodified(self) -> Deployment | None:
        """Of all unmodified candidates that ran, the one with the highest throughput in the screen."""
        runs = [
            t
            for t in self.study.trials
            if t.stage == "screen"
            and t.measurement is not None
            and t.deployment.group in self.space.groups
            and is_unmodified(t.deployment.group)
        ]
        if not runs:
            return None
        best = max(runs, key=lambda t: t.measurement["output_throughput"] if t.measurement else 0.0).deployment
        tuned = [t for t in self.survivors("tune") if t.deployment.group == best.group]
        return max(tuned, key=self.score).deployment if tuned else best

    def nearest(self) -> Trial | None:
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


def build_scheme(
    model: Model, engine: str, scheme: str, iterations: int, calibration: Sequence[str], progress: Progress
) -> Model:
    """The model in this scheme and the engine's format: itself, or an artifact from the cache or built now."""
    if scheme == model.scheme and catalogue.offer(engine).model_format == model.format:
        return model
    tuning = iterations if scheme in TUNABLE else 0
    technique = Quantize(scheme, tuning, tuple(calibration) if scheme in CALIBRATED else ())
    return techniques.apply(technique, model, progress)
