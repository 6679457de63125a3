"""The members that a mixture could have: each model in its fastest form on this machine, at the load asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyweight import codec
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineError, StorageError, UsageError
from pennyweight.hardware import Hardware
from pennyweight.json_lines import JsonLines
from pennyweight.measurement import Measurement
from pennyweight.plan.cost import Load
from pennyweight.search.bench import ServiceBench
from pennyweight.search.candidates import Candidate, is_unmodified, predicted
from pennyweight.search.faults import TRIAL_FAULTS
from pennyweight.search.question import Listener, Question, space_of
from pennyweight.workload import Workload

MEASURED = 3  # candidates of each model, the best predicted first
KEPT = ("request_throughput", "output_throughput", "ttft_mean_ms", "ttft_p95_ms", "e2e_p95_ms", "peak_memory_bytes")


@dataclass(frozen=True)
class Member:
    """A model as it would be served, and `figures` of it alone at the load asked for."""

    name: str
    deployment: Deployment
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def seconds_per_request(self) -> float:
        """Of the whole machine: the inverse of its requests per second, with its own answers' lengths."""
        return 1 / self.figures["request_throughput"]


class Members:
    """Finds the members, and keeps them in `file` for a search that goes on."""

    def __init__(
        self, file: Path, question: Mapping[str, Any], listener: Listener, hardware: Hardware, *, resume: bool
    ) -> None:
        """`question` is what must be equal for a search to go on: the file's first line."""
        self._lines, self._logs, self._listener, self._hardware = JsonLines(file), file.parent, listener, hardware
        self._known: dict[str, Member] = {}
        if resume:
            self._known = {member.name: member for member in self._read(file, question)}
        else:
            self._lines.begin(question)

    def _read(self, file: Path, question: Mapping[str, Any]) -> list[Member]:
        try:
            before, *rows = self._lines.read() or [{}]
        except ValueError as error:
            raise StorageError(f"{file} holds no members ({error}): start in another directory.") from None
        differs = [name for name in {*before, *question} if before.get(name) != question.get(name)]
        if differs:
            raise UsageError(
                f"{file.parent} holds a search with another {', '.join(sorted(differs))}: start in another directory."
            )
        self._lines.cut()
        return [codec.value_of(Member, row, str(file)) for row in rows]

    def given(self, name: str, question: Question, deployment: Deployment, load: Workload) -> Member:
        """A deployment that the user gives, measured."""
        if name not in self._known:
            self._listener.stage(f"{name}: {deployment.short_label}")
            self._keep(Member(name, deployment, self._figures(question, deployment, load)))
        return self._known[name]

    def fastest(self, name: str, question: Question, load: Workload, *, unmodified: bool) -> Member:
        """The model of the question in the form with the most requests a second, among the best predicted; only forms
        that change no weight where `unmodified`."""
        if name in self._known:
            return self._known[name]
        best: Member | None = None
        failures: list[str] = []
        for candidate in self._promising(question, unmodified=unmodified):
            self._listener.stage(f"{name}: {candidate.deployment().short_label}")
            try:
                built = candidate.deployment(
                    ServiceBench(question, self._logs, self._listener).build(candidate, (), ())
                )
                member = Member(name, built, self._figures(question, built, load))
            except TRIAL_FAULTS as error:
                failures.append(f"{candidate.label}: {error}")
                continue
            if best is None or member.seconds_per_request < best.seconds_per_request:
                best = member
        if best is None:
            raise EngineError(f"No engine serves {name} here: {'; '.join(failures) or 'none is offered'}")
        return self._keep(best)

    def _promising(self, question: Question, *, unmodified: bool) -> list[Candidate]:
        load = Load(100.0, 100.0, question.streams)
        firsts = forms(question, self._hardware, unmodified=unmodified)

        def promise(candidate: Candidate) -> float:
            return predicted(candidate, question.model, self._hardware, load, {})["output_throughput"]

        return sorted(firsts, key=promise, reverse=True)[:MEASURED]

    def _figures(self, question: Question, deployment: Deployment, load: Workload) -> dict[str, float]:
        bench = ServiceBench(question, self._logs, self._listener)
        with bench.open(deployment) as running:
            return figures_of(bench.speed(running, load))

    def _keep(self, member: Member) -> Member:
        row: Any = codec.plain(member)
        self._lines.append(row)
        self._known[member.name] = member
        return member


def forms(question: Question, hardware: Hardware, *, unmodified: bool) -> list[Candidate]:
    """Each engine and scheme that the model could be served in, by default settings; without `unmodified` also in the
    schemes that the question names. Raises `EngineError` where there is none."""
    space = space_of(question, hardware)
    firsts = [
        group[0]
        for key, group in space.groups.items()
        if is_unmodified(key) or (not unmodified and key[1] in (question.schemes or ()))
    ]
    if not firsts:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in space.refused) or "nothing was proposed"
        raise EngineError(f"No engine takes {question.model.name} as it is: {reasons}")
    return firsts


def figures_of(measurement: Measurement) -> dict[str, float]:
    return {name: measurement[name] for name in KEPT if name in measurement}
