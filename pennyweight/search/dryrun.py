"""What a search would try, and for how long, without building anything."""

from __future__ import annotations

from dataclasses import dataclass

from pennyweight.hardware import Hardware
from pennyweight.measure.proof.power import outlook
from pennyweight.plan.cost import Load
from pennyweight.schemes import scheme
from pennyweight.search.candidates import Space, predicted
from pennyweight.search.question import Question, baseline_of, refuse, space_of

START_SECONDS = 8.0  # of an engine, with its warm-up and a first look at quality
BUILD_SECONDS_PER_GIGABYTE = 30.0
CALIBRATED_FACTOR = 8.0  # how much longer a scheme that searches its scales takes to build
TUNING_RUNS = 4


@dataclass(frozen=True)
class Row:
    """One engine, scheme and recipe, as predicted."""

    label: str
    settings: int  # combinations that could be tuned
    tokens_per_s: float
    memory_bytes: float

    def __str__(self) -> str:
        return (
            f"{self.label}: {self.settings} settings, predicted {self.tokens_per_s:.0f} tokens/s, "
            f"{self.memory_bytes / 2**20:.0f} MiB"
        )


@dataclass(frozen=True)
class Plan:
    """Candidates from the most promising on, refusals with their reasons, the time if every group were screened, and
    what the held-out half can prove."""

    rows: tuple[Row, ...]
    refused: tuple[tuple[str, str], ...]
    seconds: float
    provable: tuple[str, ...] = ()


def plan(question: Question, hardware: Hardware) -> Plan:
    """Raises for a question that cannot be answered, as the search itself would."""
    space = space_of(question, hardware)
    refuse(question, space, hardware)
    return planned(question, space, hardware)


def planned(question: Question, space: Space, hardware: Hardware) -> Plan:
    """For a question that can be answered."""
    requests = question.workload.requests
    tokens = sum(request.max_tokens for request in requests)
    load = Load(100.0, tokens / len(requests), question.streams)
    baseline = predicted(baseline_of(question), question.model, hardware, load, {})["output_throughput"]
    rows, seconds = [], START_SECONDS + 2.5 * tokens / baseline
    for group, members in space.groups.items():
        promise = predicted(members[0], question.model, hardware, load, {})
        rate = promise["output_throughput"]
        seconds += _build_seconds(question, group[1], group[2])
        seconds += START_SECONDS + question.streams * load.output_tokens / rate
        label = " ".join(filter(None, group))
        rows.append(Row(label, len(members), rate, promise["peak_memory_bytes"]))
    best = max((row.tokens_per_s for row in rows), default=1.0)
    runs = TUNING_RUNS + 4 * question.rounds  # tuning, and both comparisons
    seconds += runs * (START_SECONDS + tokens / 2 / best) + question.rounds * tokens / 2 / baseline
    ordered = sorted(rows, key=lambda row: row.tokens_per_s, reverse=True)
    _, held_out = question.workload.split(question.seed)
    return Plan(tuple(ordered), space.refused, seconds, tuple(outlook(question.budget, held_out.requests)))


def _build_seconds(question: Question, name: str, recipe: str) -> float:
    if name == question.model.scheme and not recipe:
        return 0.0
    gigabytes = question.model.weight_bytes / 1e9
    return BUILD_SECONDS_PER_GIGABYTE * gigabytes * (CALIBRATED_FACTOR if scheme(name).calibrated else 1.0)
