"""`pw evaluate A --against B`: the quality of A, held against B's answers."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from pennyweight.budget import Budget, Outcome
from pennyweight.cli import options
from pennyweight.errors import GateFailed, UsageError


def evaluate(
    candidate: Annotated[str, typer.Argument(help="A deployment's directory or file, or a URL.")],
    against: Annotated[str, typer.Option(help="The baseline: likewise.")],
    workload: options.WorkloadName = "chat",
    max_added_nats: Annotated[
        float, typer.Option(help="Cross-entropy per token that may be added; 0: no gate.")
    ] = 0.02,
    max_degradation: Annotated[
        str | None, typer.Option(help="Share of the task score that may be lost, as 1%.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the gates.")] = 0.95,
    held_out: Annotated[bool, typer.Option(help="Look at the held-out half only, as a proof does.")] = True,
    num_prompts: options.NumPrompts = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    as_json: options.AsJson = False,
) -> None:
    """Task score and fidelity of CANDIDATE against a baseline, paired: ACCEPT, REJECT or INCONCLUSIVE."""
    from contextlib import ExitStack

    from pennyweight.cli.console import Live, figures
    from pennyweight.cli.targets import parse
    from pennyweight.measure import quality
    from pennyweight.tokenizer import translation

    budget = Budget(
        max_added_nats=max_added_nats or None,
        max_degradation=options.share(max_degradation, "--max-degradation"),
        confidence=confidence,
    )
    if not budget.quality_limits:
        raise UsageError("There is no gate to hold: give --max-added-nats or --max-degradation.")
    a, b = parse(candidate), parse(against)
    requests = options.workload(workload, trace_format, num_prompts, seed, a.tokenizer or b.tokenizer)
    if budget.max_degradation is not None and not requests.labelled:
        raise UsageError(f"--max-degradation needs labelled requests and {requests.name!r} has none.")
    half = requests.split(seed)[1] if held_out else requests
    with Live() as live:
        with ExitStack() as stack:
            live.stage(f"Baseline: {b.label}")
            made = quality.references(b.open(stack), half.requests, live.progress)
        with ExitStack() as stack:
            live.stage(f"Candidate: {a.label}")
            translate = translation(b.tokenizer, a.tokenizer) if a.tokenizer and b.tokenizer else None
            held_against = {r.request_id: r.translated(translate) if translate else r for r in made}
            result = quality.evaluate(a.open(stack), half, held_against, budget, progress=live.progress)
    looked_at = result.measurement.conditions["requests"]
    typer.echo(f"{result.verdict.outcome}: {figures(result.measurement)}, {looked_at} requests")
    for limit in result.verdict.limits:
        typer.echo(f"  {limit.reason}: {limit.outcome}")
    if as_json:
        print(json.dumps(_row(result.verdict.as_json(), result.measurement.as_json())))
    if result.verdict.outcome is not Outcome.ACCEPT:
        raise GateFailed(f"{a.label} is not proven to hold the margin: {result.verdict.reason}.")


def _row(verdict: dict[str, Any], measurement: dict[str, Any]) -> dict[str, Any]:
    return {"verdict": verdict["outcome"], "limits": verdict["limits"], **measurement}
