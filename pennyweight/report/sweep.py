"""Runs at several loads as a page: throughput against latency, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from pennyweight.measurement import Measurement
from pennyweight.report import phrasing, svg
from pennyweight.report.svg import Line, Point
from pennyweight.report.template import style

Run = tuple[str, Measurement]  # the load in words, and what it showed
PLOTTED = ("ttft_p50_ms", "tpot_p50_ms", "e2e_p50_ms")


def write_sweep(path: Path, title: str, runs: Sequence[Run], columns: Sequence[str]) -> Path:
    """One self-contained file, in the colours of the report."""
    pictures = "".join(f"<section>{_plot(name, runs)}</section>" for name in PLOTTED)
    head = "".join(f"<th>{escape(phrasing.name_of(name))}</th>" for name in columns)
    rows = "".join(
        f"<tr><td>{escape(load)}</td>" + "".join(f"<td>{_cell(m, name)}</td>" for name in columns) + "</tr>"
        for load, m in runs
    )
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{style()}</head><body><main>'
        f"<h1>{escape(title)}</h1>{pictures}"
        f'<div class="scroll"><table><tr><th>load</th>{head}</tr>{rows}</table></div></main></body></html>\n',
        encoding="utf-8",
    )
    return path


def _plot(name: str, runs: Sequence[Run]) -> str:
    points = [
        Point(m["output_throughput"], m[name], load, f"{load}: {m['output_throughput']:.0f} tokens/s, {m[name]:.0f} ms")
        for load, m in runs
        if name in m
    ]
    lines = [Line([(point.x, point.y) for point in points], name="as the load grows")]
    label = phrasing.name_of(name)
    return svg.scatter(points, lines, x="output tokens/s", y=f"{label} (ms)", height=300, name=f"{label} by throughput")


def _cell(measurement: Measurement, name: str) -> str:
    return phrasing.with_unit(name, measurement[name]) if name in measurement else ""
