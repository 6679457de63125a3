"""Study and evidence -> one self-contained page that works offline, whatever the outcome of the
search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pennyweight.evidence import Evidence, SearchOutcome, TechniqueGain
from pennyweight.report import parts, phrasing, plots
from pennyweight.report.template import filled
from pennyweight.study import Stage, Trial

SERVE = """<pre>pw serve DIR      # DIR is the directory of this page
pw verify DIR     # checks the artifact and runs every gate again; exit code 4 if one fails</pre>"""
NOT_SERVED = {
    SearchOutcome.INFEASIBLE: "<p>Nothing was accepted, so there is nothing to serve. Allow more, or add engines, "
    "schemes or techniques, and search again into another directory.</p>",
    SearchOutcome.ERROR: "<p>Nothing could be measured, so there is nothing to serve. Fix what failed (see "
    "<em>Failures</em>), then go on with <code>pw optimize … --resume</code>.</p>",
}


def write(path: Path, evidence: Evidence, trials: Sequence[Trial], *, colours: Mapping[str, str]) -> Path:
    """Write the page; nothing in it is fetched when it is opened."""
    screened = any(t.measurement for t in trials if t.stage is Stage.SCREEN)
    pieces = {
        "title": escape(f"{evidence.model_name}: {evidence.workload_name}"),
        "outcome": evidence.outcome.lower(),
        "verdict": escape(evidence.outcome),
        "sentences": "".join(f"<p>{escape(sentence)}</p>" for sentence in phrasing.sentences(evidence)),
        "quality": _quality(trials, evidence, colours) if screened else "<p>No candidate was measured.</p>",
        "load": plots.load(trials, evidence) or "<p>Only the requested load was measured.</p>",
        "margins": plots.margins(evidence) if evidence.chosen else "<p>Nothing was accepted.</p>",
        "limits": _limits(evidence),
        "speedup": _speedup(evidence),
        "predictions": plots.predictions(trials, colours=colours) if screened else "<p>Nothing to compare.</p>",
        "techniques": _techniques(evidence.techniques),
        "trials": _trials(trials),
        "failures": table(("candidate", "why"), evidence.failures) if evidence.failures else "<p>None.</p>",
        "refused": table(("candidate", "why"), evidence.refused) if evidence.refused else "<p>None.</p>",
        "machine": _machine(evidence),
        "lineage": _lineage(evidence),
        "serve": SERVE if evidence.chosen else NOT_SERVED[evidence.outcome],
    }
    return filled("page.html", pieces, path)


def _quality(trials: Sequence[Trial], evidence: Evidence, colours: Mapping[str, str]) -> str:
    engines = sorted({t.deployment.engine for t in trials if t.measurement})
    legend = "".join(
        f'<li><span style="background:{colours.get(name, plots.OTHER_COLOUR)}"></span>{escape(name)}</li>'
        for name in engines
    )
    pictures = [
        plots.quality(trials, evidence, against, colours=colours)
        for against in ("output_throughput", "ttft_p95_ms", "peak_memory_bytes")
    ]
    return f'<ul class="legend">{legend}</ul>' + "".join(pictures)


def _limits(evidence: Evidence) -> str:
    rows = parts.rows(evidence.quality, evidence.speed, evidence.limits)
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in parts.remarks(evidence.quality, evidence.limits))
    cells = [(row.part, row.what, row.measured, row.interval, row.limit, row.outcome) for row in rows]
    return table(("part", "what", "measured", "interval", "limit", "outcome"), cells) + said


def _speedup(evidence: Evidence) -> str:
    rows = []
    for what, speedup in (
        ("unmodified baseline", evidence.against_baseline),
        ("fastest unmodified engine", evidence.against_unmodified),
    ):
        if speedup is not None:
            c = speedup.comparison
            runs = " / ".join(f"{a:.0f} : {b:.0f}" for a, b in zip(c.a_tokens_per_s, c.b_tokens_per_s, strict=True))
            noise = " (within noise)" if c.within_noise else ""
            rows.append((f"{what}: {speedup.against}", f"{c.ratio:.2f}", c.describe_interval() + noise, runs))
    if not rows:
        return "<p>There is nothing to compare with: the baseline itself was chosen, or nothing was.</p>"
    return table(("against", "times as fast", "interval", "tokens/s of each interleaved pair"), rows)


def _techniques(rows: Sequence[TechniqueGain]) -> str:
    """The gain of each recipe over the same engine and scheme without it, alone and combined."""
    if not rows:
        return "<p>No techniques were requested (--techniques).</p>"
    head = ("techniques", "engine", "scheme", "times as fast", "of its parts alone", "of the memory", "added nats more")
    cells = [
        (
            r.recipe,
            r.engine,
            r.scheme,
            f"{r.speed:.2f}",
            f"{r.alone:.2f}" if r.alone else "",
            f"{r.memory:.2f}" if r.memory else "",
            f"{r.added_nats:+.4f}",
        )
        for r in rows
    ]
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in phrasing.sparsity_sentences(rows))
    return said + table(head, cells)


def _trials(trials: Sequence[Trial]) -> str:
    columns = ("output_throughput", "ttft_p95_ms", "added_nats", "peak_memory_bytes")
    rows = []
    for trial in trials:
        m = trial.measurement
        cells = [phrasing.with_unit(name, m[name]) if m is not None and name in m else "" for name in columns]
        promise = f"{trial.predicted['output_throughput']:.0f}" if trial.predicted else ""
        what = trial.failure or (f"ratio {trial.comparison.ratio:.2f}" if trial.comparison else "")
        seconds = f"{trial.seconds:.0f}"
        rows.append((str(trial.stage), trial.deployment.short_label, *cells, promise, seconds, what))
    head = (
        "stage",
        "deployment",
        "tokens/s",
        "TTFT p95",
        "added nats",
        "memory",
        "predicted tokens/s",
        "seconds",
        "note",
    )
    return table(head, rows)


def _machine(evidence: Evidence) -> str:
    hardware = evidence.hardware
    memory = f"{hardware.memory_bytes / 2**30:.1f} GiB, read at {hardware.memory_bandwidth / 2**30:.1f} GiB/s"
    busy = f" (measured while others used {hardware.busy_cores:.1f} cores)" if hardware.busy_cores else ""
    rows = [
        ("CPU", f"{hardware.cpu}, {hardware.cores} cores"),
        ("instructions", " ".join(hardware.flags)),
        ("memory", memory + busy),
        ("arithmetic", ", ".join(f"{n} {r / 1e9:.0f} G/s" for n, r in hardware.arithmetic_rate.items()) + busy),
        ("kernels of the chosen deployment", "; ".join(evidence.kernels) or "not reported by this engine"),
        *evidence.versions.items(),
    ]
    return table(("", ""), rows)


def _lineage(evidence: Evidence) -> str:
    lineage = evidence.lineage
    rows = [("file", name, checksum[:16]) for name, checksum in lineage.source_files.items()]
    rows += [("step", step.technique, str(dict(step.settings))) for step in lineage.steps]
    return table(("", "what", "checksum or settings"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
