"""`pw evaluate A --against B`: the quality of A, measured against B's answers."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pennyweight.budget import Budget, Outcome
from pennyweight.cli import options
from pennyweight.errors import GateFailed, UsageError


def evaluate(
    candidate: Annotated[str, typer.Argument(help="A service's directory or file, or a URL.")],
    against: Annotated[str, typer.Option(help="The baseline, given like CANDIDATE.")],
    workload: options.WorkloadName = "chat",
    max_added_nats: Annotated[
        float, typer.Option(help="Cross-entropy in nats per token that may be added; 0: no gate.")
    ] = 0.02,
    max_degradation: Annotated[
        str | None, typer.Option(help="Share of the task score that may be lost, such as 1%.")
    ] = None,
    max_tail_share: options.MaxTailShare = Budget.max_tail_share,
    max_divergence: options.MaxDivergence = None,
    min_agreement: options.MinAgreement = None,
    max_departures: options.MaxDepartures = Budget.max_departures,
    max_ending_shift: options.MaxEndingShift = Budget.max_ending_shift,
    max_length_shift: options.MaxLengthShift = Budget.max_length_shift,
    confidence: Annotated[float, typer.Option(help="Confidence level of the gates.")] = 0.95,
    engine: Annotated[str | None, typer.Option(help="Engine of CANDIDATE, where it is a model's directory.")] = None,
    against_engine: Annotated[
        str | None, typer.Option(help="Engine of --against, where it is a model's directory. [default: by its format]")
    ] = None,
    held_out: Annotated[bool, typer.Option(help="Use the held-out half only, as a search's proof does.")] = True,
    num_prompts: options.NumPrompts = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    as_json: options.AsJson = False,
) -> None:
    """Judge a service's quality against a baseline.

    The verdict is ACCEPT, REJECT or INCONCLUSIVE."""
    from pennyweight import codec, verbs
    from pennyweight.console import Live, figures
    from pennyweight.inputs import read_target, read_workload
    from pennyweight.report import parts

    budget = Budget(
        max_added_nats=max_added_nats or None,
        max_degradation=options.share(max_degradation, "--max-degradation"),
        max_tail_share=max_tail_share,
        max_divergence=max_divergence,
        min_agreement=min_agreement,
        max_departures=max_departures,
        max_ending_shift=max_ending_shift,
        max_length_shift=max_length_shift,
        confidence=confidence,
    )
    a = read_target(candidate, engine=engine)
    b = read_target(against, engine=against_engine)
    tokenizer = a.tokenizer or b.tokenizer
    requests = read_workload(workload, trace_format, num_prompts=num_prompts, seed=seed, tokenizer=tokenizer)
    if budget.max_degradation is not None and not requests.labelled:
        raise UsageError(f"--max-degradation needs labelled requests and {requests.name!r} has none.")
    with Live() as live:
        sides = (a.service or candidate, b.service or against)
        result = verbs.evaluate(*sides, requests, budget, seed=seed, held_out=held_out, listener=live)
    looked_at = result.measurement.conditions["requests"]
    typer.echo(f"{result.verdict.outcome}: {figures(result.measurement)}, {looked_at} requests")
    for line in parts.lines(result.measurement, None, result.verdict):
        typer.echo(line)
    accepted = result.verdict.outcome is Outcome.ACCEPT
    error = GateFailed(f"{a.label} is not proven to stay within the margin: {result.verdict.reason}.")
    if as_json:
        verdict = {"verdict": result.verdict.outcome, **codec.plain(result.verdict)}
        fault = {} if accepted else {"error": {"kind": type(error).__name__, "message": str(error)}}
        print(json.dumps({**verdict, **codec.plain(result.measurement), **fault}))
    if not accepted:
        error.reported = as_json
        raise error
