"""The page's plots, as Plotly figures: each takes trials or evidence and answers one question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pennyweight.report.pareto import front
from pennyweight.report.words import label, limits_of
from pennyweight.study import Trial

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = {"openvino": "#2a78d6", "onnxruntime": "#eb6834", "transformers": "#1baf7a"}
OTHER_COLOUR = "#4a3aa7"
MUTED, GRID = "#898781", "#e1e0d9"
AXES = {
    "added_nats": "added nats per token",
    "output_throughput": "output tokens/s",
    "ttft_p95_ms": "TTFT p95 (ms)",
    "peak_memory_bytes": "peak memory (MiB)",
}


def pareto(trials: Sequence[Trial], chosen: tuple[str, str, str] | None, limit: float | None) -> Figure:
    """Quality against throughput of every screened candidate; size is memory, buttons change the lower axis."""
    from plotly import graph_objects as go

    figure = go.Figure()
    runs = [t for t in trials if t.measurement and t.stage in ("screen", "baseline")]
    for engine in sorted({t.deployment.engine for t in runs}):
        own = [t for t in runs if t.deployment.engine == engine]
        figure.add_scatter(
            x=[_shown(t, "output_throughput") for t in own],
            y=[_shown(t, "added_nats") for t in own],
            mode="markers+text",
            name=engine,
            text=[_name(t, chosen) for t in own],
            textposition="top center",
            textfont={"size": 11, "color": "#52514e"},
            hovertext=[_hover(t) for t in own],
            hoverinfo="text",
            marker={
                "size": [_size(t) for t in own],
                "color": COLOURS.get(engine, OTHER_COLOUR),
                "opacity": 1,
                "line": {"width": [3 if t.deployment.group == chosen else 0 for t in own], "color": "#0b0b0b"},
            },
        )
    best = front([t.measurement for t in runs if t.measurement], {"output_throughput": "higher", "added_nats": "lower"})
    edge = sorted((_shown(runs[i], "output_throughput") or 0, _shown(runs[i], "added_nats") or 0) for i in best)
    figure.add_scatter(
        x=[x for x, _ in edge],
        y=[y for _, y in edge],
        mode="lines",
        name="not beaten in both",
        line={"color": MUTED, "width": 1.5, "shape": "hv"},
        hoverinfo="skip",
    )
    if limit is not None:
        figure.add_hline(y=limit, line={"color": MUTED, "dash": "dot", "width": 1.5})
        figure.add_annotation(
            x=0,
            xref="paper",
            y=limit,
            text=f"margin {limit:g}",
            showarrow=False,
            yanchor="bottom",
            xanchor="left",
            font={"size": 11, "color": MUTED},
        )
    engines = sorted({t.deployment.engine for t in runs})
    buttons = []
    for name in ("output_throughput", "ttft_p95_ms", "peak_memory_bytes"):
        columns = [[_shown(t, name) for t in runs if t.deployment.engine == engine] for engine in engines]
        columns.append([x for x, _ in edge] if name == "output_throughput" else [])
        buttons.append(
            {"label": AXES[name], "method": "update", "args": [{"x": columns}, {"xaxis.title.text": AXES[name]}]}
        )
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.16, "yanchor": "top", "showactive": True}]
    )
    return _styled(figure, AXES["output_throughput"], AXES["added_nats"], 430)


def margins(evidence: Mapping[str, Any]) -> Figure:
    """How much of each limit the chosen deployment uses; for quality, at the upper end of the interval."""
    from plotly import graph_objects as go

    names, used, texts = [], [], []
    quantities = {}
    for part in ("quality", "speed"):
        if evidence[part]:
            quantities.update(evidence[part]["quantities"])
    for name, bound in limits_of(evidence["question"]["budget"]).items():
        if name not in quantities:
            continue
        value = quantities[name].get("interval", [None, quantities[name]["value"]])[1]
        names.append(name)
        used.append(max(0.0, 100 * value / bound))
        texts.append(f"{_number(name, value)} of {_number(name, bound)}")
    figure = go.Figure()
    bar = {"color": COLOURS["openvino"]}
    figure.add_bar(y=names, x=used, orientation="h", text=texts, textposition="auto", marker=bar, hovertext=texts)
    figure.add_vline(x=100, line={"color": "#d03b3b", "width": 2})
    return _styled(figure, "% of the limit used", "", 120 + 46 * len(names))


def predictions(trials: Sequence[Trial]) -> Figure:
    """Predicted against measured throughput of every screened candidate; the line is where they would be equal."""
    from plotly import graph_objects as go

    runs = [t for t in trials if t.measurement and t.predicted and t.stage == "screen"]
    figure = go.Figure()
    longest = max((_pair(t)[1] for t in runs), default=1.0) * 1.15
    figure.add_scatter(
        x=[0, longest],
        y=[0, longest],
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    for engine in sorted({t.deployment.engine for t in runs}):
        own = [t for t in runs if t.deployment.engine == engine]
        figure.add_scatter(
            x=[_pair(t)[0] for t in own],
            y=[_pair(t)[1] for t in own],
            mode="markers+text",
            name=engine,
            text=[t.deployment.scheme for t in own],
            textposition="top center",
            hovertext=[_hover(t) for t in own],
            hoverinfo="text",
            marker={"size": 11, "color": COLOURS.get(engine, OTHER_COLOUR)},
        )
    return _styled(figure, "predicted output tokens/s", "measured output tokens/s", 360)


def _name(trial: Trial, chosen: tuple[str, str, str] | None) -> str:
    scheme = trial.deployment.scheme
    return f"<b>{scheme}, chosen</b>" if trial.deployment.group == chosen else scheme


def _pair(trial: Trial) -> tuple[float, float]:
    assert trial.predicted and trial.measurement
    return trial.predicted["output_throughput"], trial.measurement["output_throughput"]


def _shown(trial: Trial, name: str) -> float | None:
    assert trial.measurement
    value = trial.measurement.get(name)
    if name == "added_nats" and trial.stage == "baseline":
        return 0.0
    return value / 2**20 if value is not None and name == "peak_memory_bytes" else value


def _size(trial: Trial) -> float:
    """Area grows with memory: 12 points at 500 MiB."""
    assert trial.measurement
    return float(max(9.0, 12 * (trial.measurement.get("peak_memory_bytes") or 5e8) ** 0.5 / 5e8**0.5))


def _hover(trial: Trial) -> str:
    assert trial.measurement
    m = trial.measurement
    rows = [f"<b>{label(trial.deployment.as_json())}</b>"]
    for name, form in (
        ("output_throughput", "{:.0f} tokens/s"),
        ("ttft_p95_ms", "TTFT p95 {:.0f} ms"),
        ("tpot_p95_ms", "TPOT p95 {:.1f} ms"),
        ("added_nats", "{:+.4f} nats/token"),
        ("agreement", "agreement {:.3f}"),
    ):
        if name in m:
            rows.append(form.format(m[name]))
    if "peak_memory_bytes" in m:
        rows.append(f"{m['peak_memory_bytes'] / 2**20:.0f} MiB")
    return "<br>".join(rows)


def _number(name: str, value: float) -> str:
    return f"{value / 2**20:.0f} MiB" if name == "peak_memory_bytes" else f"{value:.4g}"


def _styled(figure: Figure, x: str, y: str, height: int) -> Figure:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 70, "r": 24, "t": 44, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#0b0b0b"},
        legend={"orientation": "h", "y": 1.1, "x": 0},
        hoverlabel={"align": "left"},
    )
    axis = {"gridcolor": GRID, "linecolor": "#c3c2b7", "zerolinecolor": "#c3c2b7", "automargin": True}
    figure.update_xaxes(title_text=x, **axis)
    figure.update_yaxes(title_text=y, **axis)
    return figure
