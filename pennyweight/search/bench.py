"""`Bench` is everything in a search that builds or measures, `ServiceBench` the real one. Tests use a fake one, so that
the decisions of a search are tested in milliseconds (tests/search/fake_bench.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pennyweight import techniques
from pennyweight.deployment import Deployment
from pennyweight.errors import EndpointError
from pennyweight.evidence import Reference
from pennyweight.measure import compare as comparing
from pennyweight.measure.client import Sampling
from pennyweight.measure.proof import proof
from pennyweight.measure.proof.allowance import Allowance
from pennyweight.measure.proof.proof import Evaluation
from pennyweight.measure.proof.references import references as baseline_answers
from pennyweight.measure.speed import LATE_RETRIES, measure_speed
from pennyweight.measurement import Comparison, Measurement
from pennyweight.model import Model
from pennyweight.schemes import scheme as scheme_of
from pennyweight.search.candidates import Candidate
from pennyweight.search.question import Listener, Question
from pennyweight.serve import Endpoint, catalogue, open_service
from pennyweight.service import Service
from pennyweight.techniques.base import Progress, no_progress
from pennyweight.techniques.quantize import Quantize
from pennyweight.workload import Arrivals, Workload


class Bench(Protocol):
    """Everything that costs time: building, opening, measuring. `running` is whatever `open` yields."""

    def build(self, candidate: Candidate, calibration: Sequence[str], prompts: Sequence[str]) -> Model: ...
    def open(self, deployment: Deployment) -> AbstractContextManager[Any]: ...
    def speed(
        self, running: Any, load: Workload, *, streams: int | None = None, warm_with: Workload | None = None
    ) -> Measurement: ...
    def references(self, running: Any, half: Workload, keep: Callable[[Reference], None]) -> Sequence[Reference]: ...
    def quality(
        self, running: Any, half: Workload, references: Mapping[str, Reference], allowance: Allowance | None = None
    ) -> Evaluation: ...
    def kernels(self, running: Any) -> Sequence[str]: ...
    def compare(
        self, openers: Sequence[comparing.Opener], load: Workload, *, streams: int, warm_with: Workload | None = None
    ) -> Comparison: ...


@dataclass
class ServiceBench:
    """Services on this machine, measured through their gateways."""

    question: Question
    directory: Path
    listener: Listener

    def build(self, candidate: Candidate, calibration: Sequence[str], prompts: Sequence[str]) -> Model:
        if candidate.engine == catalogue.REMOTE:  # a running server: there is nothing to build
            return self.question.model
        made = candidate.recipe.build(self.question.model, calibration, prompts, self.listener.progress)
        return build_scheme(
            made,
            candidate.engine,
            candidate.scheme,
            iterations=self.question.iterations,
            calibration=calibration,
            progress=self.listener.progress,
        )

    def open(self, deployment: Deployment) -> AbstractContextManager[Endpoint]:
        logs = self.directory / "logs" / f"{deployment.engine}-{deployment.id}"
        return open_service(Service.of(deployment), logs=logs, start_timeout=self.question.start_timeout)

    def speed(
        self, running: Endpoint, load: Workload, *, streams: int | None = None, warm_with: Workload | None = None
    ) -> Measurement:
        """One run at the requested load, or at `streams`. If the load generator was late, on a busy machine, the run is
        repeated; the last try is kept and marked, because ending the search would lose more."""
        made = measure_speed(
            running,
            load,
            Arrivals("closed", max_concurrency=streams or self.question.streams),
            Sampling(),
            seed=self.question.seed,
            warm_with=warm_with,
            price_per_hour=self.question.budget.price_per_hour,
            late_retries=LATE_RETRIES,
            accept_late=True,
            progress=self.listener.progress,
            say=self.listener.stage,
        )
        if made["failed_requests"]:  # a server of others may lose some: it cannot be proven on the rest
            raise EndpointError(f"{made['failed_requests']:.0f} requests failed under load.")
        return made

    def references(self, running: Endpoint, half: Workload, keep: Callable[[Reference], None]) -> Sequence[Reference]:
        return baseline_answers(running, half.requests, self.listener.progress, keep=keep)

    def quality(
        self, running: Endpoint, half: Workload, references: Mapping[str, Reference], allowance: Allowance | None = None
    ) -> Evaluation:
        return proof.evaluate(
            running,
            half,
            references,
            self.question.budget,
            allowance=allowance,
            concurrency=self.question.streams,
            seed=self.question.seed,
            progress=self.listener.progress,
        )

    def kernels(self, running: Endpoint) -> Sequence[str]:
        return running.kernels()

    def compare(
        self, openers: Sequence[comparing.Opener], load: Workload, *, streams: int, warm_with: Workload | None = None
    ) -> Comparison:
        first, second = openers
        return comparing.compare(
            first,
            second,
            load,
            Arrivals("closed", max_concurrency=streams),
            rounds=self.question.rounds,
            seed=self.question.seed,
            warm_with=warm_with,
            progress=self.listener.progress,
        )


def build_scheme(
    model: Model,
    engine: str,
    scheme: str,
    *,
    iterations: int = 0,
    calibration: Sequence[str] = (),
    progress: Progress = no_progress,
) -> Model:
    """The model in this scheme and the engine's format: itself, or an artifact from the cache or built now."""
    if scheme == model.scheme and catalogue.offer(engine).model_format == model.format:
        return model
    known = scheme_of(scheme)
    technique = Quantize(scheme, iterations if known.tunable else 0, tuple(calibration) if known.calibrated else ())
    return techniques.apply(technique, model, progress)
