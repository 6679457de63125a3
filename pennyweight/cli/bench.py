"""`pw bench`: replay a workload against a service, a deployment or a URL."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pennyweight.cli import options
from pennyweight.errors import UsageError

if TYPE_CHECKING:
    from pennyweight.measurement import Measurement
    from pennyweight.workload import Arrivals

LOAD_WIDTH, CELL_WIDTH, SHOWN_COLUMNS = 18, 13, 7  # characters of a table's columns; as many as fit the terminal
SHORT = {
    "output_throughput": "tokens/s",
    "request_throughput": "requests/s",
    "ttft_p50_ms": "TTFT p50 ms",
    "ttft_p95_ms": "TTFT p95 ms",
    "tpot_p50_ms": "TPOT p50 ms",
    "tpot_p95_ms": "TPOT p95 ms",
    "e2e_p50_ms": "e2e p50 ms",
}


def bench(
    target: Annotated[str, typer.Argument(help="A service's directory or file, a URL, or a model.")],
    workload: options.WorkloadName = "chat",
    engine: Annotated[str | None, typer.Option(help="Engine of a model; default: the one that takes all.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="An engine setting, name=value.")] = None,
    speculative_config: options.SpeculativeConfig = None,
    direct: Annotated[bool, typer.Option("--direct", help="Ask the engine itself, without the gateway.")] = False,
    model: Annotated[str | None, typer.Option(help="The model's name at a URL that serves several.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Directory of the tokenizer, for length-only traces.")] = None,
    max_concurrency: Annotated[
        str | None,
        typer.Option(help="Requests at a time; several, as 1,2,4,8, measure each. [default: 32, or no bound]"),
    ] = None,
    request_rate: Annotated[
        str | None, typer.Option(help="Requests per second, Poisson; several, as 1,2,4, measure each.")
    ] = None,
    burstiness: Annotated[float, typer.Option(help="Gamma shape of the arrivals; 1 is Poisson.")] = 1.0,
    as_recorded: Annotated[bool, typer.Option(help="Send at the times that the trace recorded.")] = False,
    time_scale: Annotated[float, typer.Option(help="Stretch recorded times; below 1 is faster.")] = 1.0,
    ignore_eos: Annotated[bool, typer.Option(help="Always answer with max_tokens tokens.")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="For all requests; 0 is greedy. [default: each request's own, else 0]")
    ] = None,
    request_timeout: Annotated[
        float | None, typer.Option(help="Seconds that a request may take. [default: 600]")
    ] = None,
    accept_cached: Annotated[bool, typer.Option("--accept-cached", help="Measure a cache that answers.")] = False,
    goodput: Annotated[
        str | None, typer.Option(help="SLOs of good requests in ms: ttft:500 tpot:60 (also e2el).")
    ] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="Price of the machine, in dollars.")] = None,
    num_prompts: options.NumPrompts = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    too_long: Annotated[
        str, typer.Option(help="Requests that do not fit the model's context: refuse, drop or truncate.")
    ] = "refuse",
    skip_invalid: options.SkipInvalid = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the measurement here as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row a load here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a page with plots of all loads here.")] = None,
    save_requests: Annotated[Path | None, typer.Option(help="Write a line of JSON for each request here.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure latency, throughput and memory under a workload."""
    from contextlib import ExitStack
    from functools import partial

    from pennyweight.busy import warn_if_busy
    from pennyweight.console import Live
    from pennyweight.inputs import counter_of, fitted, read_target, read_workload
    from pennyweight.measure.client import Sampling
    from pennyweight.measure.record import Record
    from pennyweight.measure.speed import LATE_RETRIES, measure_speed
    from pennyweight.measure.sweep import load_name, request_rows

    _refuse(request_timeout, price_per_hour, temperature, tokenizer)
    for place in (output, csv, plot, save_requests):
        options.refuse_unwritable(place)
    loads = options.loads(max_concurrency, request_rate, burstiness, recorded=as_recorded, time_scale=time_scale)
    slos = options.pairs(goodput, "--goodput")
    settings = {**options.settings(setting), **options.speculation(speculative_config)}
    api_key = os.environ.get("OPENAI_API_KEY")
    runs: list[tuple[Arrivals, Measurement]] = []
    lines: list[str] = []

    def keep(arrivals: Arrivals, records: Sequence[Record]) -> None:
        lines.extend(request_rows(arrivals, records))

    with Live() as live, ExitStack() as stack:
        parsed = read_target(target, engine=engine, settings=settings, progress=live.progress)
        place = tokenizer or parsed.tokenizer
        requests = read_workload(
            workload,
            trace_format,
            num_prompts=num_prompts,
            seed=seed,
            tokenizer=place,
            as_recorded=as_recorded,
            skip_invalid=live.line if skip_invalid else None,
        )
        synthetic = any(request.prompt_tokens for request in requests.requests)
        requests = fitted(requests, place, how=too_long, say=live.line)
        # Whatever ends this, what was measured until then is written.
        files = {"output": output, "csv": csv, "plot": plot, "save_requests": save_requests}
        stack.callback(lambda: _write(requests.name, runs, lines, **files))
        warn_if_busy(live.line)
        live.stage(f"{'Starting' if parsed.service else 'Asking'} {parsed.label}")
        endpoint = parsed.open(stack, model=model, api_key=api_key, direct=direct)
        for number, arrivals in enumerate(loads):
            live.stage(f"Replaying {requests.name}: {len(requests.requests)} requests, {load_name(arrivals)}")
            measurement = measure_speed(
                endpoint,
                requests.variant(number),
                arrivals,
                Sampling(temperature, seed, ignore_eos or synthetic),
                seed=seed,
                goodput=slos,
                price_per_hour=price_per_hour,
                api_key=api_key,
                late_retries=LATE_RETRIES if arrivals.kind == "closed" else 0,
                say=live.stage,
                progress=live.progress,
                request_timeout=request_timeout,
                count_tokens=counter_of(place),
                accept_cached=accept_cached,
                keep=partial(keep, arrivals),
            )
            runs.append((arrivals, measurement))
    _show(runs)
    if as_json:
        rows = [_row(measurement) for _, measurement in runs]
        print(json.dumps(rows[0] if len(rows) == 1 else {"loads": rows}))


def _refuse(
    request_timeout: float | None, price_per_hour: float | None, temperature: float | None, tokenizer: Path | None
) -> None:
    """Values that would run through and mean nothing."""
    for name, value, most in (("--request-timeout", request_timeout, 1e6), ("--price-per-hour", price_per_hour, 1e9)):
        if value is not None and not 0 < value <= most:
            raise UsageError(f"{name} {value:g} is not possible: use a number above 0.")
    if temperature is not None and not 0 <= temperature <= 2:
        raise UsageError(f"--temperature {temperature:g} is not possible: use 0 to 2.")
    if tokenizer is not None and not (tokenizer / "tokenizer.json").exists():
        raise UsageError(f"--tokenizer {tokenizer} has no tokenizer.json: name a model's directory.")


def _show(runs: Sequence[tuple[Arrivals, Measurement]]) -> None:
    """Every number of one load; of several, a row each."""
    from pennyweight.measure.speed import remarks, summary_rows
    from pennyweight.measure.sweep import COLUMNS, load_name

    if len(runs) == 1:
        for name, unit, value in summary_rows(runs[0][1]):
            typer.echo(f"{name:<28}{_number(unit, value)}")
    else:
        most = (shutil.get_terminal_size((120, 24)).columns - LOAD_WIDTH) // CELL_WIDTH
        measured = [name for name in COLUMNS if any(name in measurement for _, measurement in runs)]
        shown = measured[: max(1, min(SHOWN_COLUMNS, most))]
        typer.echo(f"{'load':<{LOAD_WIDTH}}" + "".join(f"{SHORT.get(name, name):>{CELL_WIDTH}}" for name in shown))
        for arrivals, measurement in runs:
            cells = [f"{measurement[name]:,.1f}" if name in measurement else "" for name in shown]
            typer.echo(f"{load_name(arrivals):<{LOAD_WIDTH}}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells))
    for remark in dict.fromkeys(remark for _, measurement in runs for remark in remarks(measurement)):
        typer.echo(remark)


def _number(unit: str, value: Any) -> str:
    if unit == "bytes":
        return f"{value / 2**20:>16,.0f} MiB"
    return f"{value:>16,.0f} {unit}" if unit == "requests" else f"{value:>16,.3f} {unit}"


def _row(measurement: Measurement) -> dict[str, object]:
    """What `--json` prints of one load."""
    from pennyweight.measure.speed import summary_rows

    row: dict[str, object] = {name: value for name, _, value in summary_rows(measurement)}
    kept = ("failures", "tokens_counted_by", "cached_answers", "empty_answers", "retried_connections", "arrivals")
    return row | {name: measurement.conditions[name] for name in kept}


def _write(
    name: str,
    runs: Sequence[tuple[Arrivals, Measurement]],
    lines: Sequence[str],
    *,
    output: Path | None,
    csv: Path | None,
    plot: Path | None,
    save_requests: Path | None,
) -> None:
    from pennyweight import codec, report
    from pennyweight.measure.sweep import COLUMNS, load_name, write_csv

    if output is not None and runs:
        plain = [codec.plain(measurement) for _, measurement in runs]
        output.write_text(json.dumps(plain[0] if len(plain) == 1 else plain, indent=1) + "\n")
    if csv is not None and runs:
        write_csv(csv, runs)
    if plot is not None and runs:
        report.write_sweep(plot, name, [(load_name(arrivals), m) for arrivals, m in runs], COLUMNS)
    if save_requests is not None and lines:
        save_requests.write_text("".join(line + "\n" for line in lines))
