"""The page's plots: each takes trials or evidence and answers one question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pennyweight.budget import Limit, Outcome
from pennyweight.deployment import Group
from pennyweight.evidence import Evidence
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.report import phrasing, svg
from pennyweight.report.pareto import front
from pennyweight.report.svg import Line, Point
from pennyweight.study import Stage, Trial

OTHER_COLOUR = "#8a63d2"
AXES = {
    "added_nats": "added nats per token",
    "output_throughput": "output tokens/s",
    "ttft_p95_ms": "TTFT p95 (ms)",
    "peak_memory_bytes": "peak memory (MiB)",
}
SHOWN = ("output_throughput", "ttft_p95_ms", "tpot_p95_ms", "added_nats", "agreement", "peak_memory_bytes")

Colours = Mapping[str, str]


def quality(trials: Sequence[Trial], evidence: Evidence, against: str, *, colours: Colours) -> str:
    """Quality against speed, latency or memory (`against`) of every screened candidate. What breaks a limit of quality
    is hollow; the line joins those that no other beats in both."""
    runs = [
        t for t in trials if t.measurement and t.stage in (Stage.SCREEN, Stage.BASELINE) and against in t.measurement
    ]
    screened = {t.deployment.group for t in runs if t.stage is Stage.SCREEN}
    runs = [t for t in runs if t.stage is Stage.SCREEN or t.deployment.group not in screened]  # one point a group
    chosen = evidence.chosen.group if evidence.chosen else None
    points = [
        _point(trial, against, chosen=chosen, evidence=evidence, colour=colours.get(trial.deployment.engine))
        for trial in runs
    ]
    lines = [Line(across=limit.bound, name=f"limit {limit.bound:g}") for limit in _nats_limit(evidence)]
    better = "higher" if against == "output_throughput" else "lower"
    sound = [p for p in points if not p.rejected]
    best = front([_as_measurement(p, against) for p in sound], {against: better, "added_nats": "lower"})
    edge = sorted((sound[i].x, sound[i].y) for i in best)
    if len(edge) > 1:
        lines.append(Line(edge, name="no other candidate is better in both"))
    name = f"Added nats per token against {AXES[against]}, one point per engine and scheme"
    return svg.scatter(points, lines, x=AXES[against], y=AXES["added_nats"], name=name)


def load(trials: Sequence[Trial], evidence: Evidence) -> str:
    """Throughput against latency of the chosen deployment, by streams; the knee is where throughput over latency is
    highest (power: Kleinrock 1979)."""
    runs = [
        (int(t.notes["streams"]), t.measurement)
        for t in trials
        if t.stage is Stage.SWEEP and t.measurement and evidence.chosen and t.deployment.id == evidence.chosen.id
    ]
    if len(runs) < 2:
        return ""
    ordered = sorted(runs, key=lambda run: run[0])
    knee = max(ordered, key=lambda run: run[1]["output_throughput"] / run[1]["e2e_p50_ms"])[0]
    points = [
        Point(
            m["output_throughput"],
            m["e2e_p50_ms"],
            phrasing.streams_text(streams) + (", the knee" if streams == knee else ""),
            f"{phrasing.streams_text(streams)}: {m['output_throughput']:.0f} tokens/s, "
            f"whole answer p50 {m['e2e_p50_ms']:.0f} ms",
            chosen=streams == knee,
        )
        for streams, m in ordered
    ]
    lines = [Line([(point.x, point.y) for point in points], name="as the load grows")]
    return svg.scatter(
        points, lines, x=AXES["output_throughput"], y="whole answer p50 (ms)", height=300, name="Latency by throughput"
    )


def margins(evidence: Evidence) -> str:
    """How much of each limit the chosen deployment uses; for quality, at the upper end of the interval."""
    rows = []
    measured = {**(evidence.quality.quantities if evidence.quality else {})}
    measured |= evidence.speed.quantities if evidence.speed else {}
    for limit in phrasing.limits_of(evidence.budget):
        if limit.quantity not in measured or limit.floor or not limit.bound:
            continue  # what must not be at all has no share of a limit
        quantity = measured[limit.quantity]
        value = quantity.interval[1] if quantity.interval else quantity.value
        text = f"{phrasing.with_unit(limit.quantity, value)} of {phrasing.with_unit(limit.quantity, limit.bound)}"
        rows.append((phrasing.name_of(limit.quantity), max(0.0, 100 * value / limit.bound), text))
    return svg.bars(rows, x="% of the limit used", limit=100.0, name="Share of each limit that is used")


def predictions(trials: Sequence[Trial], *, colours: Colours) -> str:
    """Predicted against measured throughput of every screened candidate; the line is where they would be equal."""
    points = [
        Point(
            t.predicted["output_throughput"],
            t.measurement["output_throughput"],
            t.deployment.scheme,
            hover(t),
            colours.get(t.deployment.engine, OTHER_COLOUR),
        )
        for t in trials
        if t.measurement and t.predicted and t.stage is Stage.SCREEN
    ]
    longest = max((min(p.x, p.y) for p in points), default=1.0) * 1.15
    equal = Line([(0, 0), (longest, longest)], name="predicted and measured would be equal")
    return svg.scatter(
        points, [equal], x="predicted output tokens/s", y="measured output tokens/s", name="Predicted and measured"
    )


def hover(trial: Trial) -> str:
    """The text of a point on hover: the known quantities of its trial."""
    assert trial.measurement
    shown = [
        f"{phrasing.name_of(name)} {phrasing.with_unit(name, trial.measurement[name])}"
        for name in SHOWN
        if name in trial.measurement
    ]
    return "\n".join([trial.deployment.short_label, *shown])


def _point(trial: Trial, against: str, *, chosen: Group | None, evidence: Evidence, colour: str | None) -> Point:
    assert trial.measurement
    nats = trial.measurement.quantities.get("added_nats")
    baseline = trial.deployment.group == evidence.baseline.group
    low, high = nats.interval if nats and nats.interval else (None, None)
    is_chosen = trial.deployment.group == chosen
    scale = 2**20 if against.endswith("_bytes") else 1
    rejected = not baseline and any(
        limit.outcome is Outcome.REJECT
        for limit in evidence.budget.judge_limits(trial.measurement, evidence.budget.quality_limits).limits
    )
    name = f"{trial.deployment.scheme} (baseline)" if baseline else trial.deployment.scheme
    return Point(
        trial.measurement[against] / scale,
        0.0 if baseline or nats is None else nats.value,
        f"{name}, chosen" if is_chosen else f"{name}, rejected" if rejected else name,
        hover(trial),
        colour or OTHER_COLOUR,
        low=low,
        high=high,
        chosen=is_chosen,
        rejected=rejected,
    )


def _nats_limit(evidence: Evidence) -> list[Limit]:
    return [limit for limit in evidence.budget.quality_limits if limit.quantity == "added_nats"]


def _as_measurement(point: Point, against: str) -> Measurement:
    values = ((against, point.x), ("added_nats", point.y))
    return collect("", [Quantity(name, value, "", "lower") for name, value in values])
