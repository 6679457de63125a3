"""What a search would try, and for how long, without building anything."""

from __future__ import annotations

from dataclasses import dataclass

from pennyweight.hardware import Hardware
from pennyweight.plan.cost import Load
from pennyweight.search.candidates import predicted
from pennyweight.search.question import Question, baseline_of, space_of
from pennyweight.techniques.quantize import TUNED

START_SECONDS = 8.0  # of an engine, with its warm-up and a first look at quality
BUILD_SECONDS_PER_GIGABYTE = 30.0
TUNED_FACTOR = 8.0  # how much longer a scheme that searches its scales takes to build


@dataclass(frozen=True)
class Plan:
    rows: tuple[str, ...]
    seconds: float


def plan(question: Question, hardware: Hardware) -> Plan:
    """Candidates by promise, refusals with their reasons, and the time if every group were screened."""
    space = space_of(question, hardware)
    requests = question.workload.requests
    tokens = sum(request.max_tokens for request in requests)
    load = Load(100.0, tokens / len(requests), question.streams)
    rows, seconds = [], 0.0
    gigabytes = question.model.weight_bytes / 1e9
    baseline = predicted(baseline_of(question), question.model, hardware, load, {})
    seconds += START_SECONDS + 2.5 * tokens / baseline["output_throughput"]
    best = 0.0
    for group, members in space.groups.items():
        promise = predicted(members[0], question.model, hardware, load, {})
        rate = promise["output_throughput"]
        best = max(best, rate)
        build = 0.0
        if group[1] != question.model.scheme or group[2]:
            build = BUILD_SECONDS_PER_GIGABYTE * gigabytes * (TUNED_FACTOR if group[1] in TUNED else 1.0)
        seconds += build + START_SECONDS + question.streams * load.output_tokens / rate
        rows.append(
            (
                rate,
                f"{' '.join(filter(None, group))}: {len(members)} settings, predicted {rate:.0f} tokens/s, "
                f"{promise['peak_memory_bytes'] / 2**20:.0f} MiB",
            )
        )
    runs = 4 + 4 * question.rounds  # tuning, and both comparisons
    seconds += (
        runs * (START_SECONDS + tokens / 2 / max(best, 1.0))
        + question.rounds * tokens / 2 / baseline["output_throughput"]
    )
    ordered = [text for _, text in sorted(rows, reverse=True)]
    refused = [f"refused: {label}: {reason}" for label, reason in space.refused]
    return Plan((*ordered, *refused), seconds)
