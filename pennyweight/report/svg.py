"""Plots as SVG text: axes with round ticks, points with error bars, lines, bars. Colours that depend on the theme are
classes (style.css), so that one picture reads in light and in dark; it needs no script and scales with the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 720, 64, 20, 38, 46
TICKS = 6
ROW = 40  # height of one bar with its name
CHARACTER = 9.5  # width of one, about, at the size that labels have in a narrow window


@dataclass(frozen=True)
class Point:
    """One mark. `low` and `high` are the ends of its interval on the vertical axis; `title` appears when pointed at."""

    x: float
    y: float
    label: str = ""
    title: str = ""
    colour: str = ""
    size: float = 6.0
    low: float | None = None
    high: float | None = None
    chosen: bool = False
    rejected: bool = False


@dataclass(frozen=True)
class Line:
    """A line through places; `across` draws it from edge to edge at a height (None: as given)."""

    places: Sequence[tuple[float, float]] = ()
    across: float | None = None
    name: str = ""


@dataclass
class Scale:
    """Values to places on the page, from zero or below it."""

    least: float
    most: float
    begin: float
    end: float
    ticks: list[float] = field(init=False)

    def __post_init__(self) -> None:
        step = round_step((self.most - self.least) or 1.0)
        self.least = math.floor(self.least / step + 1e-9) * step
        self.most = math.ceil(self.most / step - 1e-9) * step or step
        count = round((self.most - self.least) / step)
        self.ticks = [self.least + step * number for number in range(count + 1)]

    def __call__(self, value: float) -> float:
        return self.begin + (value - self.least) / (self.most - self.least) * (self.end - self.begin)


def round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, for some six ticks."""
    raw = span / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def scatter(
    points: Sequence[Point], lines: Sequence[Line] = (), *, x: str, y: str, height: int = 360, name: str
) -> str:
    """An `<svg>` with both axes named; `name` is its label for screen readers."""
    finite = [v for p in points for v in (p.y, p.low, p.high) if v is not None and math.isfinite(v)]
    heights = [*finite, *(line.across for line in lines if line.across is not None)]
    horizontal = Scale(0.0, max([p.x for p in points], default=1.0) * 1.08, LEFT, WIDTH - RIGHT)
    vertical = Scale(min([0.0, *heights]), max([*heights, 0.0]) or 1.0, height - BOTTOM, TOP)
    parts = [*_axes(horizontal, vertical, x, y, height)]
    for line in lines:
        parts += _line(line, horizontal, vertical)
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (not p.chosen, p.x)):
        parts += _point(point, horizontal, vertical, taken)
    return _svg(parts, height, name)


def bars(rows: Sequence[tuple[str, float, str]], *, x: str, limit: float, name: str) -> str:
    """One bar a row (name, value, text), and a line at the limit."""
    height = TOP + BOTTOM + ROW * max(1, len(rows))
    scale = Scale(0.0, max([limit, *(value for _, value, _ in rows)]) * 1.05, LEFT, WIDTH - RIGHT)
    parts = [*_ticks(scale, height), _text((LEFT + WIDTH - RIGHT) / 2, height - 8, x, "axis", anchor="middle")]
    for number, (label, value, text) in enumerate(rows):
        top = TOP + number * ROW
        parts.append(_text(LEFT, top + 12, f"{label}: {text}", "label"))
        width = max(2.0, scale(value) - LEFT)
        kind = "bar" if value <= limit else "bar over"
        parts.append(f'<rect class="{kind}" x="{LEFT}" y="{top + 17}" width="{width:.1f}" height="14" rx="2"/>')
    place = scale(limit)
    parts.append(f'<line class="limit" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP - 6}" y2="{height - BOTTOM}"/>')
    return _svg(parts, height, name)


def _svg(parts: Sequence[str], height: int, name: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )


def _ticks(scale: Scale, height: int) -> list[str]:
    parts = []
    for tick in scale.ticks:
        place = scale(tick)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(_text(place, height - BOTTOM + 16, f"{tick:.6g}", "tick", anchor="middle"))
    return parts


def _axes(horizontal: Scale, vertical: Scale, x: str, y: str, height: int) -> list[str]:
    parts = _ticks(horizontal, height)
    for tick in vertical.ticks:
        place = vertical(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(_text(LEFT - 8, place + 4, f"{tick:.6g}", "tick", anchor="end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 8, x, "axis", anchor="middle"))
    parts.append(_text(4, 13, y, "axis"))
    return parts


def _line(line: Line, horizontal: Scale, vertical: Scale) -> list[str]:
    if line.across is not None:
        place = vertical(line.across)
        return [
            f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>',
            _text(WIDTH - RIGHT, place - 4, line.name, "label", anchor="end"),
        ]
    places = " ".join(f"{horizontal(a):.1f},{vertical(b):.1f}" for a, b in line.places)
    return [f'<polyline class="line" points="{places}"><title>{escape(line.name)}</title></polyline>']


def _point(point: Point, horizontal: Scale, vertical: Scale, taken: list[tuple[float, float]]) -> list[str]:
    x, y = horizontal(point.x), vertical(point.y)
    parts = []
    if point.low is not None and point.high is not None and math.isfinite(point.low) and math.isfinite(point.high):
        top, bottom = vertical(point.high), vertical(point.low)
        parts.append(f'<line class="error" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
    kind = " ".join(["point", *(["chosen"] if point.chosen else []), *(["rejected"] if point.rejected else [])])
    fill = "" if point.rejected or not point.colour else f' style="fill:{point.colour}"'
    stroke = f' style="stroke:{point.colour}"' if point.rejected and point.colour else ""
    parts.append(
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{point.size:.1f}"{fill}{stroke}>'
        f"<title>{escape(point.title or point.label)}</title></circle>"
    )
    if point.label:
        parts.append(_label(point, x, y, taken))
    return parts


def _label(point: Point, x: float, y: float, taken: list[tuple[float, float]]) -> str:
    """Beside its point, on the side where there is room, moved down from labels that stand there already."""
    left = x + len(point.label) * CHARACTER + 14 > WIDTH
    height = y - 9
    while any(abs(height - other) < 12 and abs(x - place) < 90 for place, other in taken):
        height += 12
    taken.append((x, height))
    return _text(x + (-8 if left else 8), height, point.label, "label", anchor="end" if left else "start")


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
