"""`pw compare A B`: how much faster is A?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pennyweight.cli import options
from pennyweight.errors import UsageError


def compare(
    a: Annotated[str, typer.Argument(help="A deployment's directory or file, or a URL.")],
    b: Annotated[str, typer.Argument(help="Likewise.")],
    workload: options.WorkloadName = "chat",
    max_concurrency: options.MaxConcurrency = options.CONCURRENCY,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds, at least 2.")] = 3,
    num_prompts: options.NumPrompts = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    as_json: options.AsJson = False,
) -> None:
    """Ratio of A's output throughput to B's from interleaved runs, with its 95% confidence interval. Where A's
    vocabulary is another, its tokens are counted as B's."""
    from pennyweight.cli.console import Live
    from pennyweight.cli.targets import parse
    from pennyweight.measure import compare as comparing
    from pennyweight.tokenizer import growth
    from pennyweight.workload import Arrivals, texts

    if rounds < 2:
        raise UsageError(f"--rounds {rounds} gives no confidence interval: use 2 or more.")
    first, second = parse(a), parse(b)
    requests = options.workload(workload, trace_format, num_prompts, seed, first.tokenizer or second.tokenizer)
    arrivals = Arrivals("closed", max_concurrency=max_concurrency)
    with Live() as live:
        live.stage(f"{first.label} against {second.label}")
        result = comparing.compare(
            first.open, second.open, requests, arrivals, rounds=rounds, seed=seed, progress=live.progress
        )
    if first.tokenizer and second.tokenizer:
        result = result.in_other_tokens(growth(second.tokenizer, first.tokenizer, texts(requests.requests)))
    low, high = result.interval
    noise = ", within noise" if result.within_noise else ""
    typer.echo(f"{result.ratio:.2f} times as fast (95% confidence {low:.2f} to {high:.2f}{noise})")
    if as_json:
        print(json.dumps({"a": first.label, "b": second.label, **result.as_json()}))
