"""mixture.json -> a page: what each model and each policy costs and scores, and what is certified of them."""

from __future__ import annotations

from html import escape
from pathlib import Path

from pennyweight.mixture_evidence import MixtureEvidence, PolicyResult, Winner
from pennyweight.report import svg
from pennyweight.report.page import table
from pennyweight.report.svg import Line, Point
from pennyweight.report.template import filled

COLOURS = ("#2a78d6", "#1baf7a", "#c9781a", "#8a63d2", "#b3261e")
AGAIN = """pw verify DIR                         # asks the models again and certifies again; exit code 4 if that fails
pw calibrate DIR -w traffic.jsonl     # the same on new traffic, with a new certificate"""
VERDICTS = {Winner.MIXTURE: "a mixture", Winner.SMALL: "the smaller model alone", Winner.LARGE: "the large model alone"}


def write_mixture(path: Path, evidence: MixtureEvidence, sentences: list[str]) -> Path:
    pieces = {
        "title": escape(f"{evidence.model_name}: {evidence.workload_name}"),
        "verdict": escape(VERDICTS[evidence.winner]),
        "sentences": "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences),
        "curve": curve(evidence),
        "members": _members(evidence),
        "policies": _policies(evidence),
        "again": AGAIN if evidence.winner is Winner.MIXTURE else "",
        "hardware": escape(f"{evidence.hardware.cpu}, {evidence.hardware.cores} cores"),
    }
    return filled("mixture.html", pieces, path)


def curve(evidence: MixtureEvidence) -> str:
    """Cost a request against what is lost of the large model's score: each model alone, each policy at all its
    thresholds, and where it is certified."""
    large = evidence.members[0]
    costs = {one.name: 1 / one.figures["request_throughput"] for one in evidence.members}
    points = [
        Point(
            1000 * costs[one.name],
            100 * (1 - one.score / large.score) if large.score else 0.0,
            one.name,
            f"{one.name} alone: score {one.score:.3f} on {one.asked} requests",
            "#555555",
            chosen=one.name == evidence.chosen,
        )
        for one in evidence.members
        if one.score is not None
    ]
    lines = [Line(across=100 * evidence.limit.share, name=f"limit {evidence.limit.share:.1%}")]
    for number, policy in enumerate(evidence.policies):
        colour = COLOURS[number % len(COLOURS)]
        lines.append(Line(_path(policy, costs, large.name), name=policy.name))
        if policy.certified:
            text = f"{policy.name}: keeps {policy.kept:.1%}, loses {policy.lost:+.2%}, at most {policy.bound:.2%}"
            points.append(
                Point(
                    1000 * policy.cost, 100 * policy.lost, f"{policy.name}, certified", text, colour, chosen=not number
                )
            )
    name = "Cost a request against the share of the score that is lost"
    return svg.scatter(points, lines, x="milliseconds of the machine a request", y="% of the score lost", name=name)


def _path(policy: PolicyResult, costs: dict[str, float], large: str) -> list[tuple[float, float]]:
    """The policy's own curve: its cost grows with what it does not keep, as at its certified point."""
    small = costs[policy.small]
    extra = policy.cost - policy.kept * small - (1 - policy.kept) * costs[large] if policy.certified else 0.0
    in_vain = extra / (1 - policy.kept) if policy.kept < 1 else 0.0
    return sorted(
        (1000 * (kept * small + (1 - kept) * (costs[large] + in_vain)), 100 * lost) for kept, lost in policy.curve
    )


def _members(evidence: MixtureEvidence) -> str:
    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    rows = [
        (
            one.name,
            one.label,
            f"{one.figures['request_throughput']:.2f}",
            shown(one.figures.get("ttft_p95_ms"), ".0f"),
            shown(one.figures.get("e2e_p95_ms"), ".0f"),
            shown(one.score, ".3f"),
            str(one.asked),
            shown(one.bound, ".2%"),
            one.race,
        )
        for one in evidence.members
    ]
    heads = (
        "model",
        "served as",
        "requests/s",
        "TTFT p95 (ms)",
        "answer p95 (ms)",
        "score",
        "asked",
        "loses at most",
        "race",
    )
    return table(heads, rows)


def _policies(evidence: MixtureEvidence) -> str:
    if not evidence.policies:
        return "<p>No policy was fitted.</p>"
    rows = [
        (
            one.name,
            one.small,
            "yes" if one.certified else "no",
            f"{one.kept:.1%}",
            f"{one.lost:+.2%}",
            f"{one.bound:.2%}",
            f"{1000 * one.cost:.0f}",
        )
        for one in evidence.policies
    ]
    return table(("policy", "small model", "certified", "keeps", "loses", "at most", "predicted ms a request"), rows)
