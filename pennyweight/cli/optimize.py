"""`pw optimize`: search for a deployment, prove it and write it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.budget import Budget
from pennyweight.cli import choosing, options
from pennyweight.cli import config as configs
from pennyweight.errors import EngineError, Infeasible, PennyweightError, UsageError

if TYPE_CHECKING:
    from pennyweight.evidence import Evidence
    from pennyweight.hardware import Hardware
    from pennyweight.search import Question


def optimize(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A Hub id, a Hugging Face directory, a .gguf file, or `demo`.")],
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", is_eager=True, callback=configs.read_config, help="Options from a YAML file."),
    ] = None,
    workload: options.WorkloadName = "chat",
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for the result.")] = Path("pennyweight-out"),
    objective: Annotated[
        str, typer.Option(help="What to optimize: throughput, latency, ttft, memory or cost.")
    ] = "throughput",
    max_added_nats: Annotated[
        float, typer.Option(help="Cross-entropy per token that may be added to the baseline's; 0: no such gate.")
    ] = 0.02,
    max_degradation: Annotated[
        str | None, typer.Option(help="Share of the baseline's task score that may be lost, such as 1%.")
    ] = None,
    max_tail_share: options.MaxTailShare = Budget.max_tail_share,
    max_divergence: options.MaxDivergence = None,
    min_agreement: options.MinAgreement = None,
    max_departures: options.MaxDepartures = Budget.max_departures,
    max_ending_shift: options.MaxEndingShift = Budget.max_ending_shift,
    max_length_shift: options.MaxLengthShift = Budget.max_length_shift,
    slo: Annotated[str | None, typer.Option(help="Latency limits in ms: ttft:1500 tpot:60 (also itl, e2el).")] = None,
    percentile: Annotated[int, typer.Option(help="The percentile that --slo applies to.")] = 95,
    max_memory: Annotated[str | None, typer.Option(help="Limit of the service's peak memory, as 2GiB.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Limit in dollars per million output tokens.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="Price of the machine, in dollars.")] = None,
    confidence: Annotated[float, typer.Option(help="Confidence level of the quality gates.")] = 0.95,
    max_concurrency: options.MaxConcurrency = options.CONCURRENCY,
    engines: Annotated[str | None, typer.Option(help="Try only these engines, separated by commas.")] = None,
    schemes: Annotated[str | None, typer.Option(help="Try only these schemes and the unmodified model.")] = None,
    iterations: Annotated[int, typer.Option(help="Tuning iterations of the schemes that can be tuned.")] = 0,
    techniques: Annotated[
        str | None,
        typer.Option(
            help="Techniques to try, with amounts: prune:10%,vocabulary,distill:200 (and experts, neurons, kv-heads, "
            "sparsity)."
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Another model for the same work, or a directory that serves it; repeatable."),
    ] = None,
    mix: Annotated[
        str | None, typer.Option(help="Try mixtures with the model of --also: kind,cluster,router,cascade,both.")
    ] = None,
    judge: Annotated[
        bool, typer.Option(help="Let the first model judge free text without labels; labels of a part correct it.")
    ] = False,
    cache_similar: Annotated[
        str | None, typer.Option(help="Also try answers to similar questions, this share of which may be wrong: 5%.")
    ] = None,
    speculate: Annotated[bool, typer.Option(help="Find the load up to which speculative decoding pays.")] = False,
    base_url: Annotated[str | None, typer.Option(help="URL of a running server to include in the search.")] = None,
    num_prompts: options.NumPrompts = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of the final comparisons.")] = 3,
    exhaustive: Annotated[bool, typer.Option(help="Measure every candidate: slow, for checking the search.")] = False,
    dry_run: Annotated[bool, typer.Option(help="List what would be tried and how long it would take.")] = False,
    resume: Annotated[bool, typer.Option(help="Continue the search in the output directory.")] = False,
    start_timeout: Annotated[float, typer.Option(help="Seconds that an engine may take to get ready.")] = 300.0,
    write_config: Annotated[Path | None, typer.Option(help="Write these options as YAML and exit.")] = None,
    adapter: options.Adapter = None,
    as_json: options.AsJson = False,
) -> None:
    """Find the cheapest deployment proven to meet a budget."""
    del config
    budget = Budget(
        objective=objective,
        max_added_nats=max_added_nats or None,
        max_degradation=options.share(max_degradation, "--max-degradation"),
        max_tail_share=max_tail_share,
        max_divergence=max_divergence,
        min_agreement=min_agreement,
        max_departures=max_departures,
        max_ending_shift=max_ending_shift,
        max_length_shift=max_length_shift,
        slo=options.slo(slo, percentile),
        max_memory_bytes=options.size(max_memory, "--max-memory"),
        max_dollars_per_million_tokens=max_cost,
        price_per_hour=price_per_hour,
        confidence=confidence,
    )
    if iterations < 0:
        raise UsageError(f"--iterations {iterations} is not possible: use 0 (no tuning) or more.")
    if rounds < 1 or max_concurrency < 1:
        raise UsageError("--rounds and --max-concurrency must be 1 or more.")
    if write_config is not None:
        configs.write_config(context, write_config)
        typer.echo(f"Wrote {write_config}: `pw optimize -c {shlex.quote(str(write_config))}`.")
        return
    from pennyweight import verbs
    from pennyweight.busy import warn_if_busy
    from pennyweight.console import Live
    from pennyweight.inputs import open_model, read_workload, remote_settings
    from pennyweight.measure.proof.power import outlook
    from pennyweight.paths import absolute
    from pennyweight.plan.machine import measured_hardware
    from pennyweight.search import Question, recipes
    from pennyweight.search.question import refuse_early
    from pennyweight.serve import catalogue

    if also or mix or judge:
        choosing.refuse_other_options(context)
        choosing.choose_models(
            [model, *(also or ())],
            workload,
            choosing.MixOptions(
                policies=_names(mix) or (),
                judge=judge,
                share=options.share(max_degradation, "--max-degradation") or choosing.DEFAULT_LOSS,
                confidence=confidence,
                streams=max_concurrency,
                seed=seed,
                engines=_names(engines),
                schemes=_names(schemes),
                rounds=rounds,
                start_timeout=start_timeout,
                num_prompts=num_prompts,
                trace_format=trace_format,
            ),
            output,
            resume=resume,
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    wanted = _names(engines)
    remote = remote_settings(wanted, base_url)
    catalogue.require([engine for engine in wanted or () if engine != catalogue.REMOTE])
    amounts, place = recipes.parse(techniques), absolute(output)
    if not dry_run:
        verbs.refuse_output(place, resume=resume)
    with Live() as live:
        live.stage(f"Opening {model}")
        opened = open_model(model, live.progress, adapter=adapter)
        requests = read_workload(workload, trace_format, num_prompts=num_prompts, seed=seed, tokenizer=opened.path)
        question = Question(
            opened,
            requests,
            budget,
            streams=max_concurrency,
            seed=seed,
            engines=wanted,
            schemes=_names(schemes),
            iterations=iterations,
            exhaustive=exhaustive,
            rounds=rounds,
            start_timeout=start_timeout,
            techniques=amounts,
            speculate=speculate,
            remote=remote,
            similar=options.share(cache_similar, "--cache-similar") or 0.0,
        )
        refuse_early(question)
        verbs.embedding(live, wanted=bool(question.similar))
        warn_if_busy(live.line)
        live.stage("Measuring this machine")
        hardware = measured_hardware()
        if dry_run:
            _list_candidates(question, hardware, as_json=as_json)
            return
        for sentence in outlook(budget, requests.split(seed)[1].requests):
            live.line(sentence)
        verbs.prepare_output(place, resume=resume)
        _, evidence = verbs.run_search(question, place, hardware, live, resume=resume)
    _show(evidence, output, as_json=as_json)


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else None


def _list_candidates(question: Question, hardware: Hardware, *, as_json: bool) -> None:
    from dataclasses import asdict

    from pennyweight.console import duration
    from pennyweight.search import dryrun

    plan = dryrun.plan(question, hardware)
    for row in plan.rows:
        typer.echo(str(row))
    by_reason: dict[str, list[str]] = {}
    for label, reason in plan.refused:
        by_reason.setdefault(reason, []).append(label)
    for reason, labels in by_reason.items():
        typer.echo(f"refused: {', '.join(labels)}: {reason}")
    for sentence in plan.provable:
        typer.echo(f"provable: {sentence}")
    typer.echo(f"Predicted: about {duration(plan.seconds)}. Nothing was built.")
    if as_json:
        candidates = [asdict(row) for row in plan.rows]
        refused = [{"candidate": label, "reason": reason} for label, reason in plan.refused]
        seconds, provable = round(plan.seconds), list(plan.provable)
        print(json.dumps({"candidates": candidates, "refused": refused, "provable": provable, "seconds": seconds}))


def _show(evidence: Evidence, output: Path, *, as_json: bool) -> None:
    """Print the result, and raise the error that sets the exit code."""
    from pennyweight.evidence import SearchOutcome
    from pennyweight.report import failure_sentence, nearest_sentence, sentences
    from pennyweight.search.result import summary
    from pennyweight.serve import catalogue

    report = output / "report.html"
    accepted = evidence.chosen is not None
    if accepted:
        for sentence in sentences(evidence):
            typer.echo(sentence)
    typer.echo(f"Report: {report}")
    if evidence.chosen is not None and evidence.chosen.engine != catalogue.REMOTE:
        named = shlex.quote(str(output))
        typer.echo(f"Serve it: pw serve {named}    Verify it: pw verify {named}")
    error: PennyweightError | None = None
    if evidence.outcome is SearchOutcome.ERROR:
        error = EngineError(f"No candidate could be measured. {failure_sentence(evidence)}")
    elif not accepted:
        error = Infeasible(nearest_sentence(evidence))
    if as_json:
        fault = {"error": {"kind": type(error).__name__, "message": str(error)}} if error else {}
        print(json.dumps({**summary(evidence, report), **fault}))
    if error is not None:
        error.reported = as_json
        raise error
