"""`pw bench`: replay a workload against a service, a deployment or a URL."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import options


def bench(
    target: Annotated[str, typer.Argument(help="A service's directory or file, a URL, or with --engine a model.")],
    workload: options.WorkloadName = "chat",
    engine: Annotated[str | None, typer.Option(help="Serve the model directory TARGET with this engine.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="An engine setting, name=value.")] = None,
    speculative_config: options.SpeculativeConfig = None,
    direct: Annotated[bool, typer.Option("--direct", help="Ask the engine itself, without the gateway.")] = False,
    model: Annotated[str | None, typer.Option(help="The model's name at a URL that serves several.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Directory of the tokenizer, for length-only traces.")] = None,
    max_concurrency: options.MaxConcurrency = options.CONCURRENCY,
    request_rate: Annotated[float | None, typer.Option(help="Requests per second, Poisson.")] = None,
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
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the measurement here as JSON.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure latency, throughput and memory under a workload."""
    from contextlib import ExitStack

    from pennyweight import codec
    from pennyweight.busy import warn_if_busy
    from pennyweight.console import Live
    from pennyweight.inputs import counter_of, read_target, read_workload
    from pennyweight.measure.client import Sampling
    from pennyweight.measure.speed import LATE_RETRIES, measure_speed, remarks, summary_rows

    times = options.arrivals(max_concurrency, request_rate, burstiness, recorded=as_recorded, time_scale=time_scale)
    slos = options.pairs(goodput, "--goodput")
    settings = {**options.settings(setting), **options.speculation(speculative_config)}
    api_key = os.environ.get("OPENAI_API_KEY")
    with Live() as live, ExitStack() as stack:
        parsed = read_target(target, engine=engine, settings=settings, progress=live.progress)
        requests = read_workload(
            workload, trace_format, num_prompts=num_prompts, seed=seed, tokenizer=tokenizer or parsed.tokenizer
        )
        warn_if_busy(live.line)
        live.stage(f"{'Starting' if parsed.service else 'Asking'} {parsed.label}")
        endpoint = parsed.open(stack, model=model, api_key=api_key, direct=direct)
        live.stage(f"Replaying {requests.name}: {len(requests.requests)} requests")
        synthetic = any(request.prompt_tokens for request in requests.requests)
        measurement = measure_speed(
            endpoint,
            requests,
            times,
            Sampling(temperature, seed, ignore_eos or synthetic),
            seed=seed,
            goodput=slos,
            price_per_hour=price_per_hour,
            api_key=api_key,
            late_retries=LATE_RETRIES if times.kind == "closed" else 0,
            say=live.stage,
            progress=live.progress,
            request_timeout=request_timeout,
            count_tokens=counter_of(tokenizer or parsed.tokenizer),
            accept_cached=accept_cached,
        )
    for name, unit, value in summary_rows(measurement):
        typer.echo(f"{name:<28}{value:>16,.3f} {unit}")
    for remark in remarks(measurement):
        typer.echo(remark)
    if output is not None:
        output.write_text(json.dumps(codec.plain(measurement), indent=1) + "\n")
    if as_json:
        row = {name: value for name, _, value in summary_rows(measurement)}
        kept = ("failures", "tokens_counted_by", "cached_answers", "retried_connections")
        print(json.dumps(row | {name: measurement.conditions[name] for name in kept}))
