"""What a search found, in sentences. The same words stand on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Evidence = Mapping[str, Any]


def sentences(evidence: Evidence) -> list[str]:
    """What was chosen, how much faster it is, at what loss."""
    if evidence["chosen"] is None:
        return [f"No candidate meets the budget for {evidence['model']['name']}.", nearest_sentence(evidence)]
    return [_choice(evidence), _speed(evidence), _loss(evidence), *_guessing(evidence.get("speculation") or [])]


def _choice(evidence: Evidence) -> str:
    chosen = label(evidence["chosen"])
    if evidence["unmodified_wins"]:
        return (
            f"The unmodified model wins: {chosen} has the best {evidence['question']['budget']['objective']} "
            f"of what holds the budget, so no weight was changed."
        )
    value = evidence["speed"]["quantities"]["output_throughput"]["value"]
    return (
        f"Chosen: {chosen}, the best {evidence['question']['budget']['objective']} of what holds every limit, "
        f"at {value:.0f} output tokens/s with {evidence['question']['streams']} streams on the held-out half."
    )


def _speed(evidence: Evidence) -> str:
    parts = []
    for name in ("baseline", "fastest_unmodified"):
        comparison = evidence["speedup"][name]
        if comparison is None:
            continue
        low, high = comparison["ci95"]
        noise = ", which is within noise" if comparison["within_noise"] else ""
        what = "the unmodified baseline" if name == "baseline" else "the fastest unmodified engine"
        parts.append(
            f"{comparison['ratio']:.2f} times as fast as {what}, {' '.join(comparison['against'].split()[:2])} "
            f"(95% confidence {low:.2f} to {high:.2f}{noise})"
        )
    memory = evidence["peak_memory_bytes"]
    if evidence["speedup"]["fastest_unmodified"] and memory["chosen"] and memory["fastest_unmodified"]:
        share = memory["chosen"] / memory["fastest_unmodified"]
        parts[-1] += f", in {share:.2f} of its memory ({memory['chosen'] / 2**20:.0f} MiB)"
    return f"It is {' and '.join(parts)}." if parts else "It is the baseline itself, so there is no speed-up to report."


def _loss(evidence: Evidence) -> str:
    quality = evidence["quality"]["quantities"]
    nats = quality["added_nats"]
    low, high = nats["interval"]
    text = (
        f"Measured loss over {evidence['quality']['conditions']['requests']} held-out requests: "
        f"{nats['value']:+.4f} nats per token "
        f"(interval {low:+.4f} to {high:+.4f}), {quality['agreement']['value']:.1%} of first choices agree"
    )
    if "degradation" in quality:
        text += (
            f", task score {quality['task_score']['value']:.3f} against {quality['baseline_task_score']['value']:.3f} "
            f"({-quality['degradation']['value']:+.1%})"
        )
    return text + "."


def _guessing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    told = [f"{row['ratio']:.2f} times as fast at {row['streams']}" for row in rows if "ratio" in row]
    return [f"Guessing ahead, by streams: {', '.join(told)}."] if told else []


def nearest_sentence(evidence: Evidence) -> str:
    """Which limits nothing met, and the nearest point that was measured."""
    nearest = evidence["nearest"]
    if nearest is None:
        return "No candidate could be measured: see the failures in the report."
    quantities = nearest["measurement"]["quantities"]
    missed, held = [], []
    for name, bound in limits_of(evidence["question"]["budget"]).items():
        value = quantities[name]["value"] if name in quantities else None
        if value is None:
            missed.append(f"{name} was not measured")
        elif value > bound:
            missed.append(f"{name} is {value:.4g} where {bound:.4g} is the limit")
        elif "interval" in quantities[name] and quantities[name]["interval"][1] > bound:
            proven = quantities[name]["interval"][1]
            missed.append(f"{name} is {value:.4g}, but only {proven:.4g} is proven of the limit {bound:.4g}")
        else:
            held.append(name)
    what = "; ".join(missed) or "its limits hold here, but not on the held-out half"
    place = label(nearest["deployment"])
    return f"Nearest to the budget is {place}: {what}. A budget that allows this is the nearest to try."


def sparsity_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Zeros that no engine skips must not look like a gain."""
    return [
        f"No engine here gets faster from single zeros: {row['engine']} {row['scheme']} multiplies by them, and ran at "
        f"{row['speed']:.2f} times the speed of the dense model."
        for row in rows
        if row["recipe"].split(":")[0] == "sparsity"
    ]


def limits_of(budget: Mapping[str, Any]) -> dict[str, float]:
    """Quantity -> bound of every limit that is set."""
    limits = {
        "added_nats": budget["max_added_nats"],
        "degradation": budget["max_degradation"],
        **budget["slo"],
        "peak_memory_bytes": budget["max_memory_bytes"],
        "dollars_per_million_tokens": budget["max_dollars_per_million_tokens"],
    }
    return {name: bound for name, bound in limits.items() if bound is not None}


def label(deployment: Mapping[str, Any]) -> str:
    settings = " ".join(f"{name}={value}" for name, value in sorted(deployment["settings"].items()))
    words = filter(None, (deployment["engine"], deployment["scheme"], deployment.get("recipe")))
    return " ".join(words) + (f" ({settings})" if settings else "")
