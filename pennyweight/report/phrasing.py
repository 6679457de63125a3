"""The result of a search in sentences, and numbers with readable units. The terminal and the report page show the same
text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pennyweight.budget import CLIP_MARGINS, Budget, Limit
from pennyweight.evidence import Evidence, Part, SearchOutcome, Speedup, TechniqueGain
from pennyweight.measurement import Measurement, Quantity

NAMES = {
    "added_nats": "added nats per token",
    "agreement": "first choices that agree",
    "scored_nats": "added nats per token, scored only",
    "divergence": "divergence from the baseline",
    "decode_added_nats": "added nats per token by decoding",
    "different_prompts": "requests with another prompt",
    "empty_answers": "empty answers",
    "different_texts": "same tokens as another text",
    "ending_shift": "change in answers that end by themselves",
    "length_shift": "change in answer length",
    "tail_share": f"sessions that lose more than {CLIP_MARGINS} times --max-added-nats",
    "departures": "answers that leave what scoring is sure of",
    "invalid_forms": "answers that lost their form",
    "sampled_p_value": "p-value of sampled answers",
    "degradation": "lost share of the task score",
    "task_score": "task score",
    "output_throughput": "output tokens/s",
    "peak_memory_bytes": "peak memory",
    "dollars_per_million_tokens": "dollars per million output tokens",
}
SHOWN = ("scored_nats", "decode_added_nats", "agreement", "task_score", "baseline_task_score")  # without a limit too
NOTHING_TO_JUDGE = {
    Part.SAME_QUESTION: "not compared",
    Part.WEIGHTS: "not scored",
    Part.DECODE: "not scored",
    Part.ENDINGS: "not compared",
    Part.TAILS: "not scored",
    Part.TASKS: "nothing in this workload: no labels, no forms, no sampling",
    Part.SPEED: "no limit was set",
}
LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "time between chunks", "e2e": "whole answer"}
MAX_REASONS = 3


def sentences(evidence: Evidence) -> list[str]:
    """What was chosen, how much faster it is, at what loss; or why nothing was."""
    if evidence.outcome is SearchOutcome.ERROR:
        return [f"No candidate for {evidence.model_name} could be measured.", failure_sentence(evidence)]
    if evidence.chosen is None:
        return [f"No candidate meets the budget for {evidence.model_name}.", nearest_sentence(evidence)]
    return [
        _choice(evidence),
        _speed(evidence),
        _loss(evidence),
        *_speculation(evidence),
        *_similar(evidence),
        *_marks(evidence),
    ]


def failure_sentence(evidence: Evidence) -> str:
    """Why nothing was measured: the first reasons, each once."""
    reasons = list(dict.fromkeys(reason for _, reason in evidence.failures))
    if not reasons:
        return "Nothing was tried: every candidate was refused (see the report)."
    more = f" ({len(reasons) - MAX_REASONS} more in the report)" if len(reasons) > MAX_REASONS else ""
    return " ".join(reasons[:MAX_REASONS]) + more


def _choice(evidence: Evidence) -> str:
    assert evidence.chosen is not None and evidence.speed is not None
    chosen, objective = evidence.chosen.short_label, evidence.budget.objective
    if evidence.unmodified_wins:
        return (
            f"The unmodified model wins: {chosen} has the best {objective} of all within the budget, so no weight was "
            "changed."
        )
    return (
        f"Chosen: {chosen}, the best {objective} of all within every limit, at "
        f"{evidence.speed['output_throughput']:.0f} output tokens/s with {streams_text(evidence.streams)} on the "
        "held-out half."
    )


def _speed(evidence: Evidence) -> str:
    parts = []
    for what, speedup in (
        ("the unmodified baseline", evidence.against_baseline),
        ("the fastest unmodified engine", evidence.against_unmodified),
    ):
        if speedup is not None:
            parts.append(_times(speedup, what))
    memory = evidence.peak_memory_bytes
    if evidence.against_unmodified and {"chosen", "fastest_unmodified"} <= memory.keys():
        share = memory["chosen"] / memory["fastest_unmodified"]
        parts[-1] += f", in {share:.2f} of its memory ({memory['chosen'] / 2**20:.0f} MiB)"
    alone = "As a model it is the baseline itself, so there is no speed-up to report."
    return f"It is {' and '.join(parts)}." if parts else alone


def _times(speedup: Speedup, what: str) -> str:
    noise = ", which is within noise" if speedup.comparison.within_noise else ""
    engine = " ".join(speedup.against.split()[:2])
    interval = speedup.comparison.describe_interval()
    return f"{speedup.comparison.ratio:.2f} times as fast as {what}, {engine} ({interval}{noise})"


def _loss(evidence: Evidence) -> str:
    assert evidence.quality is not None
    quality = evidence.quality
    nats = quality.quantities["added_nats"]
    text = (
        f"Measured loss over {quality.conditions['requests']} held-out requests: {nats.value:+.4f} nats per token "
        f"({interval(nats)}), {quality['agreement']:.1%} of first choices agree"
    )
    if "degradation" in quality:
        text += (
            f", task score {quality['task_score']:.3f} against {quality['baseline_task_score']:.3f} "
            f"({-quality['degradation']:+.1%})"
        )
    return text + "."


def _speculation(evidence: Evidence) -> list[str]:
    gains = [
        f"{trial.comparison.ratio:.2f} times as fast at {trial.notes['streams']}"
        for trial in evidence.speculation
        if trial.comparison
    ]
    return [f"Speculative decoding, by streams: {', '.join(gains)}."] if gains else []


def _similar(evidence: Evidence) -> list[str]:
    found = evidence.similar
    if found is None:
        return []
    if found.refused:
        return [f"Similar answers are not served: {found.refused}."]
    assert found.faster is not None
    return [
        f"Similar answers are served: {found.hits} of {found.requests} held-out requests can be answered from the "
        f"cache, {found.wrong} of them wrongly, so at most {found.bound:.1%} are ({found.policy.limit:.1%} allowed); "
        f"{found.faster.ratio:.2f} times the requests a second of the service without them "
        f"({found.faster.describe_interval()})."
    ]


def _marks(evidence: Evidence) -> list[str]:
    """What makes the numbers less certain than they look."""
    late = evidence.speed.conditions.get("late_generator_ms") if evidence.speed else None
    if late is None:
        return []
    return [
        f"The machine was busy while the speed was proven (the load generator was {late} ms late): measure it again on "
        "an idle one before you rely on it."
    ]


def nearest_sentence(evidence: Evidence) -> str:
    """Which limits nothing met, and the nearest point that was measured."""
    nearest = evidence.nearest
    if nearest is None or nearest.measurement is None:
        return failure_sentence(evidence)
    missed = [text for limit in limits_of(evidence.budget) if (text := _missed(limit, nearest.measurement))]
    what = "; ".join(missed) or "its limits hold here, but not on the held-out half"
    return (
        f"Nearest to the budget is {nearest.deployment.short_label}: {what}. A budget that allows this is the nearest "
        "to try."
    )


def _missed(limit: Limit, measurement: Measurement) -> str:
    quantity = measurement.quantities.get(limit.quantity)
    name, bound = name_of(limit.quantity), with_unit(limit.quantity, limit.bound)
    if quantity is None:
        return f"{name} was not measured"
    if quantity.value > limit.bound:
        return f"{name} is {with_unit(limit.quantity, quantity.value)} where {bound} is the limit"
    if quantity.interval is not None and quantity.interval[1] > limit.bound:
        if not math.isfinite(quantity.interval[1]):
            return f"{name} has no interval: too few requests to prove the limit of {bound}"
        proven = with_unit(limit.quantity, quantity.interval[1])
        value = with_unit(limit.quantity, quantity.value)
        return f"{name} is {value}, but only {proven} is proven of the limit of {bound}"
    return ""


def sparsity_sentences(rows: Sequence[TechniqueGain]) -> list[str]:
    """Zeros that no engine skips must not look like a gain."""
    return [
        f"No engine here skips single zeros, so none gets faster: {row.engine} {row.scheme} ran at "
        f"{row.speed:.2f} times the speed of the dense model."
        for row in rows
        if row.recipe.split(":")[0] == "sparsity"
    ]


def limits_of(budget: Budget) -> tuple[Limit, ...]:
    return (*budget.quality_limits, *budget.speed_limits)


def name_of(quantity: str) -> str:
    """`ttft_p95_ms` -> TTFT p95."""
    kind, _, rest = quantity.partition("_")
    if kind in LATENCIES and rest.endswith("_ms"):
        return f"{LATENCIES[kind]} {rest.removesuffix('_ms')}"
    return NAMES.get(quantity, quantity.replace("_", " "))


def with_unit(quantity: str, value: float) -> str:
    """With a readable unit: 250 MiB, 412 ms, 0.90, +0.0088."""
    if not math.isfinite(value):
        return "unknown"
    if quantity.endswith("_bytes"):
        return f"{value / 2**20:.0f} MiB"
    if quantity.endswith("_ms"):
        return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
    if quantity == "added_nats":
        return f"{value:+.4f}"
    if quantity in (
        "agreement",
        "task_score",
        "degradation",
        "tail_share",
        "departures",
        "ending_shift",
        "length_shift",
    ):
        return f"{value:.3f}" if value < 0.995 else f"{value:.2f}"
    if quantity.startswith("dollars"):
        return f"${value:.3g}"
    return f"{value:.4g}"


def interval(quantity: Quantity) -> str:
    """The interval as text; unbounded ones, from too few values, are named as such."""
    if quantity.interval is None:
        return "no interval"
    low, high = quantity.interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "too few requests for an interval"
    return f"interval {with_unit(quantity.name, low)} to {with_unit(quantity.name, high)}"


def streams_text(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"
