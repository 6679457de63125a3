"""What a choice between models asks of running services. `ServiceMixtureBench` is the real one; tests use a fake, so
that the decisions are tested in milliseconds (tests/search/test_mixture_search.py)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pennyweight.measure import compare as comparing
from pennyweight.measurement import Comparison
from pennyweight.search.bench import ServiceBench
from pennyweight.search.judging import Judgements, Pair, ask_judge
from pennyweight.search.members import figures_of
from pennyweight.search.outcomes import OutcomeMatrix, collect
from pennyweight.search.question import Listener, Question
from pennyweight.serve import Endpoint, open_service
from pennyweight.service import Service
from pennyweight.workload import Arrivals, Workload


class MixtureBench(Protocol):
    def ask(self, matrix: OutcomeMatrix, name: str, service: Service, halves: Sequence[Workload]) -> None:
        """The service's answers to what the matrix lacks, kept under this name."""
        ...

    def judge(self, judgements: Judgements, name: str, judge: Service, pairs: Sequence[Pair]) -> None:
        """What the judge says of this member's answers, where nothing is known yet."""
        ...

    def figures(self, service: Service, load: Workload) -> dict[str, float]:
        """Requests a second and latencies at the load asked for."""
        ...

    def compare(self, service: Service, alone: Service, load: Workload) -> Comparison:
        """Requests a second of both, in interleaved runs."""
        ...


@dataclass
class ServiceMixtureBench:
    """Services on this machine, through their gateways."""

    question: Question
    directory: Path
    listener: Listener

    def ask(self, matrix: OutcomeMatrix, name: str, service: Service, halves: Sequence[Workload]) -> None:
        requests = [request for half in halves for request in half.requests]  # together: one time left is shown
        with self._open(service) as running:
            streams, progress = self.question.streams, self.listener.progress
            collect(matrix, name, running, requests, concurrency=streams, progress=progress)

    def judge(self, judgements: Judgements, name: str, judge: Service, pairs: Sequence[Pair]) -> None:
        with self._open(judge) as running:
            streams, progress = self.question.streams, self.listener.progress
            ask_judge(judgements, name, running, pairs, concurrency=streams, progress=progress)

    def figures(self, service: Service, load: Workload) -> dict[str, float]:
        with self._open(service) as running:
            return figures_of(ServiceBench(self.question, self.directory, self.listener).speed(running, load))

    def compare(self, service: Service, alone: Service, load: Workload) -> Comparison:
        def opener(one: Service) -> comparing.Opener:
            return lambda stack: stack.enter_context(self._open(one))

        return comparing.compare(
            opener(service),
            opener(alone),
            load,
            Arrivals("closed", max_concurrency=self.question.streams),
            rounds=self.question.rounds,
            seed=self.question.seed,
            quantity="request_throughput",
            progress=self.listener.progress,
        )

    def _open(self, service: Service) -> AbstractContextManager[Endpoint]:
        logs = self.directory / "logs" / service.id
        return open_service(service, logs=logs, start_timeout=self.question.start_timeout)
