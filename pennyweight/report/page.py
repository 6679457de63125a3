"""Study and evidence -> one self-contained page that works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pennyweight.report import plots
from pennyweight.report.words import label, nearest_sentence, sentences, sparsity_sentences
from pennyweight.study import Trial

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["nearest_sentence", "sentences", "write"]


def write(path: Path, evidence: Mapping[str, Any], trials: Sequence[Trial]) -> Path:
    """Write the page; nothing in it is fetched when it is opened."""
    template = (resources.files("pennyweight.report") / "page.html").read_text(encoding="utf-8")
    limit = evidence["question"]["budget"]["max_added_nats"]
    accepted = evidence["chosen"]
    chosen = (accepted["engine"], accepted["scheme"], accepted.get("recipe", "")) if accepted else None
    parts = {
        "title": escape(f"{evidence['model']['name']}: {evidence['workload']['name']}"),
        "verdict": escape(evidence["verdict"]),
        "sentences": "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(evidence)),
        "pareto": _html(plots.pareto(trials, chosen, limit), with_library=True),
        "margins": _html(plots.margins(evidence)) if evidence["chosen"] else "<p>Nothing was accepted.</p>",
        "limits": _limits(evidence),
        "speedup": _speedup(evidence),
        "predictions": _html(plots.predictions(trials)),
        "techniques": _techniques(evidence.get("techniques", ())),
        "trials": _trials(trials),
        "refused": _table(("candidate", "why"), evidence["refused"]) if evidence["refused"] else "<p>None.</p>",
        "machine": _machine(evidence),
        "lineage": _lineage(evidence),
    }
    for name, part in parts.items():
        template = template.replace(f"{{{{{name}}}}}", part)
    path.write_text(template, encoding="utf-8")
    return path


def _html(figure: Figure, *, with_library: bool = False) -> str:
    from plotly import io

    html: str = io.to_html(
        figure, include_plotlyjs=with_library, full_html=False, config={"displayModeBar": False, "responsive": True}
    )
    return html


def _limits(evidence: Mapping[str, Any]) -> str:
    rows = [(r["quantity"], r["outcome"], r["reason"]) for r in evidence["limits"]["limits"]]
    return _table(("limit", "outcome", "measured"), rows)


def _speedup(evidence: Mapping[str, Any]) -> str:
    rows = []
    for name, what in (("baseline", "unmodified baseline"), ("fastest_unmodified", "fastest unmodified engine")):
        c = evidence["speedup"][name]
        if c is not None:
            runs = " / ".join(
                f"{a:.0f} : {b:.0f}" for a, b in zip(c["a_tokens_per_s"], c["b_tokens_per_s"], strict=True)
            )
            interval = f"{c['ci95'][0]:.2f} to {c['ci95'][1]:.2f}" + (" (within noise)" if c["within_noise"] else "")
            rows.append((f"{what}: {c['against']}", f"{c['ratio']:.2f}", interval, runs))
    if not rows:
        return "<p>There is nothing to compare with: the baseline itself was chosen, or nothing was.</p>"
    return _table(("against", "times as fast", "95% confidence", "tokens/s of each interleaved pair"), rows)


def _techniques(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each recipe gave against the same engine and scheme without it, alone and together."""
    if not rows:
        return "<p>None were asked for (--techniques).</p>"
    head = ("techniques", "engine", "scheme", "times as fast", "of its parts alone", "of the memory", "added nats more")
    cells = [
        (
            r["recipe"],
            r["engine"],
            r["scheme"],
            f"{r['speed']:.2f}",
            f"{r['alone']:.2f}" if r["alone"] else "",
            f"{r['memory']:.2f}" if r["memory"] else "",
            f"{r['added_nats']:+.4f}",
        )
        for r in rows
    ]
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sparsity_sentences(rows))
    return said + _table(head, cells)


def _trials(trials: Sequence[Trial]) -> str:
    rows = []
    for trial in trials:
        m = trial.measurement
        cells = ["", "", "", ""]
        if m is not None:
            cells = [
                f"{m[name] / scale:.{digits}f}" if name in m else ""
                for name, scale, digits in (
                    ("output_throughput", 1, 0),
                    ("ttft_p95_ms", 1, 0),
                    ("added_nats", 1, 4),
                    ("peak_memory_bytes", 2**20, 0),
                )
            ]
        promise = f"{trial.predicted['output_throughput']:.0f}" if trial.predicted else ""
        what = trial.failure or (f"ratio {trial.notes['ratio']:.2f}" if "ratio" in trial.notes else "")
        rows.append((trial.stage, label(trial.deployment.as_json()), *cells, promise, f"{trial.seconds:.0f}", what))
    head = (
        "stage",
        "deployment",
        "tokens/s",
        "TTFT p95 ms",
        "added nats",
        "MiB",
        "predicted tokens/s",
        "seconds",
        "note",
    )
    return _table(head, rows)


def _machine(evidence: Mapping[str, Any]) -> str:
    hardware = evidence["hardware"]
    rows = [
        ("CPU", f"{hardware['cpu']}, {hardware['cores']} cores"),
        ("instructions", " ".join(hardware["flags"])),
        (
            "memory",
            f"{hardware['memory_bytes'] / 2**30:.1f} GiB, read at {hardware['memory_bandwidth'] / 2**30:.1f} GiB/s",
        ),
        ("arithmetic", ", ".join(f"{n} {r / 1e9:.0f} G/s" for n, r in hardware["arithmetic_rate"].items())),
        ("kernels of the chosen", "; ".join(evidence.get("kernels", ())) or "not told by this engine"),
        *evidence["versions"].items(),
    ]
    return _table(("", ""), rows)


def _lineage(evidence: Mapping[str, Any]) -> str:
    lineage = evidence["model"]["lineage"]
    rows = [("file", name, checksum[:16]) for name, checksum in lineage["source_files"].items()]
    rows += [("step", step["technique"], str(step["settings"])) for step in lineage["steps"]]
    return _table(("", "what", "checksum or settings"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
