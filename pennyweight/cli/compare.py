"""`pw compare A B`: how much faster is A?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pennyweight.cli import options
from pennyweight.errors import UsageError


def compare(
    a: Annotated[str, typer.Argument(help="A service's directory or file, or a URL.")],
    b: Annotated[str, typer.Argument(help="The service to compare with, given like A.")],
    workload: options.WorkloadName = "chat",
    max_concurrency: options.MaxConcurrency = options.CONCURRENCY,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds, at least 2.")] = 3,
    num_prompts: options.NumPrompts = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare the throughput of A with that of B.

    Prints the ratio with its confidence interval. Runs of A and B alternate. Where their vocabularies differ, A's
    tokens are converted to B's.
    """
    from pennyweight import codec
    from pennyweight.busy import warn_if_busy
    from pennyweight.console import Live
    from pennyweight.inputs import read_target, read_workload
    from pennyweight.measure import compare as comparing
    from pennyweight.tokenizer import tokens_per_baseline_token
    from pennyweight.workload import Arrivals, texts

    if rounds < 2:
        raise UsageError(f"--rounds {rounds} gives no confidence interval: use 2 or more.")
    arrivals = Arrivals("closed", max_concurrency=max_concurrency)
    with Live() as live:
        first, second = read_target(a, progress=live.progress), read_target(b, progress=live.progress)
        tokenizer = first.tokenizer or second.tokenizer
        requests = read_workload(workload, trace_format, num_prompts=num_prompts, seed=seed, tokenizer=tokenizer)
        warn_if_busy(live.line)
        live.stage(f"{first.label} against {second.label}")
        result = comparing.compare(
            first.open, second.open, requests, arrivals, rounds=rounds, seed=seed, progress=live.progress
        )
    if first.tokenizer and second.tokenizer:
        ratio = tokens_per_baseline_token(second.tokenizer, first.tokenizer, texts(requests.requests))
        result = result.in_other_tokens(ratio)
    noise = ", within noise" if result.within_noise else ""
    typer.echo(f"{result.ratio:.2f} times as fast ({result.describe_interval()}{noise})")
    if as_json:
        row = {"a": first.label, "b": second.label, "ci95": list(result.interval), "within_noise": result.within_noise}
        print(json.dumps({**row, **codec.plain(result)}))
