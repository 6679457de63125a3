"""A plan as a page: what each way of serving costs, and the share of requests that it keeps within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from pennyweight.report import svg
from pennyweight.report.page import table
from pennyweight.report.svg import Line, Point
from pennyweight.report.template import style


@dataclass(frozen=True)
class PlannedRow:
    name: str
    replicas: int
    hourly_usd: float
    attainment: float
    ttft_p99_ms: float
    tpot_p99_ms: float
    chosen: bool


def write_plan(
    path: Path, title: str, rows: Sequence[PlannedRow], *, attainment: float, sentences: Sequence[str]
) -> Path:
    """All figures are predicted."""
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    cells = [
        (
            f"{row.replicas} x {row.name}",
            f"{row.hourly_usd:.2f}",
            f"{row.attainment:.2%}",
            f"{row.ttft_p99_ms:.0f}",
            f"{row.tpot_p99_ms:.1f}",
        )
        for row in rows
    ]
    head = ("placement", "$ an hour", "within the limits", "TTFT p99 (ms)", "TPOT p99 (ms)")
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{style()}</head><body><main>'
        f"<h1>{escape(title)}</h1><section>{said}</section><section>{_plot(rows, attainment)}</section>"
        f"{table(head, cells)}<p>Everything here is predicted, by the pessimistic end of each interval, and nothing "
        "was started.</p></main></body></html>\n",
        encoding="utf-8",
    )
    return path


def _plot(rows: Sequence[PlannedRow], attainment: float) -> str:
    points = [
        Point(
            row.hourly_usd,
            100 * row.attainment,
            row.name if row.chosen else "",
            f"{row.replicas} x {row.name}: {row.hourly_usd:.2f} $ an hour, {row.attainment:.2%} within the limits",
            chosen=row.chosen,
            rejected=row.attainment < attainment,
        )
        for row in rows
    ]
    lines = [Line(across=100 * attainment, name=f"{attainment:.1%} asked")]
    return svg.scatter(
        points, lines, x="$ an hour", y="% of requests within the limits", height=320, name="Cost against attainment"
    )
