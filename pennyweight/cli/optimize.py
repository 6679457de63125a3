"""`pw optimize`: the whole flow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pennyweight.budget import Budget
from pennyweight.cli import options
from pennyweight.errors import Infeasible, StorageError, UsageError

if TYPE_CHECKING:
    from pennyweight.cli.console import Live
    from pennyweight.hardware import Hardware
    from pennyweight.search.question import Answer, Question


def optimize(
    model: Annotated[str, typer.Argument(help="A Hub id, a Hugging Face directory, a .gguf file, or `demo`.")],
    workload: options.WorkloadName = "chat",
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for the result.")] = Path("pennyweight-out"),
    objective: Annotated[str, typer.Option(help="throughput, latency, ttft, memory or cost.")] = "throughput",
    max_added_nats: Annotated[
        float,
        typer.Option(help="Cross-entropy per token that may be added over the baseline's answers; 0: no such gate."),
    ] = 0.02,
    max_degradation: Annotated[
        str | None, typer.Option(help="Share of the baseline's task score that may be lost, as 1%.")
    ] = None,
    slo: Annotated[str | None, typer.Option(help="Latency limits in ms: ttft:1500 tpot:60 (also itl, e2el).")] = None,
    percentile: Annotated[int, typer.Option(help="The percentile that --slo speaks of.")] = 95,
    max_memory: Annotated[str | None, typer.Option(help="Peak memory of the engine, as 2GiB.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Dollars per million output tokens.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="What the machine costs, in dollars.")] = None,
    confidence: Annotated[float, typer.Option(help="Of the quality gates.")] = 0.95,
    max_concurrency: options.MaxConcurrency = options.CONCURRENCY,
    engines: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    schemes: Annotated[str | None, typer.Option(help="Only these besides the unmodified model.")] = None,
    iterations: Annotated[int, typer.Option(help="Tuning iterations of the 4-bit GGUF schemes.")] = 0,
    techniques: Annotated[
        str | None,
        typer.Option(
            help="Also try these, with amounts: prune:10%,vocabulary,distill:200 (and neurons, "
            "kv-heads, sparsity), alone and together."
        ),
    ] = None,
    speculate: Annotated[bool, typer.Option(help="Find the load up to which guessing ahead pays, and use it.")] = False,
    base_url: Annotated[
        str | None, typer.Option(help="A server that joins the search as it is (--engines remote,… or with all).")
    ] = None,
    num_prompts: options.NumPrompts = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of the final comparisons.")] = 3,
    exhaustive: Annotated[bool, typer.Option(help="Measure every candidate: slow, for checking the search.")] = False,
    dry_run: Annotated[bool, typer.Option(help="List what would be tried and how long it would take.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the search in the output directory.")] = False,
    start_timeout: Annotated[float, typer.Option(help="Seconds that an engine may take to get ready.")] = 300.0,
    as_json: options.AsJson = False,
) -> None:
    """Find the cheapest deployment of MODEL that is proven to hold the budget."""
    budget = Budget(
        objective=objective,
        max_added_nats=max_added_nats or None,
        max_degradation=options.share(max_degradation, "--max-degradation"),
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
    from pennyweight.cli.console import Live
    from pennyweight.cli.targets import remote_settings

    remote = remote_settings(_names(engines), base_url)
    with Live() as live:
        live.stage(f"Opening {model}")
        opened = options.open_model(model, live.progress)
        requests = options.workload(workload, trace_format, num_prompts, seed, opened.path)
        from pennyweight.plan.machine import measured_hardware
        from pennyweight.search import recipes
        from pennyweight.search.loop import Search
        from pennyweight.search.question import Question, refuse_model

        live.stage("Measuring this machine")
        hardware = measured_hardware()
        question = Question(
            opened,
            requests,
            budget,
            max_concurrency,
            seed,
            _names(engines),
            _names(schemes),
            iterations,
            exhaustive,
            rounds,
            start_timeout,
            recipes.parse(techniques),
            speculate,
            remote,
        )
        refuse_model(opened)
        check_workload(question)
        if dry_run:
            _list_candidates(question, hardware, live)
            return
        _prepare(output, resume=resume)
        search = Search(question, output, hardware, live, resume=resume)
        answer = search.run()
        live.stage("Writing the report")
        result = _write(output, question, answer, hardware, search)
    _tell(result, output, answer)
    if as_json:
        print(json.dumps(result["summary"]))
    if answer.chosen is None:
        raise Infeasible(_infeasible(result))


def check_workload(question: Question) -> None:
    """Refuse requests that cannot fit into the model's context, before anything is spent."""
    from pennyweight.errors import WorkloadError
    from pennyweight.tokenizer import Tokenizer

    tokenizer, context = Tokenizer(question.model.path), question.model.context_length
    if question.budget.max_degradation is not None and not question.workload.labelled:
        raise UsageError(
            f"--max-degradation needs labelled requests and {question.workload.name!r} has none: "
            "use --max-added-nats, or a workload with references and scorers."
        )
    for request in question.workload.requests:
        length = len(tokenizer.request_tokens(request))
        if length + request.max_tokens > context:
            raise WorkloadError(
                f"Request {request.id!r} needs {length} + {request.max_tokens} tokens and the model's context is "
                f"{context}: shorten it, or lower its max_tokens."
            )


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else None


def _prepare(output: Path, *, resume: bool) -> None:
    study = output / "study.jsonl"
    if resume:
        if not study.exists():
            raise StorageError(f"{output} holds no search to resume: start it without --resume.")
    elif output.exists() and any(output.iterdir()):
        raise StorageError(f"{output} is already there: choose another directory with -o, or go on with --resume.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{output} cannot be made ({error.strerror}): choose another directory with -o.") from None
    if shutil.disk_usage(output).free < 1 << 28:
        raise StorageError(f"The disk of {output} has less than 256 MiB free: free some space.")


def _list_candidates(question: Question, hardware: Hardware, live: Live) -> None:
    from pennyweight.search import dryrun

    plan = dryrun.plan(question, hardware)
    for row in plan.rows:
        live.line(row)
    live.line(f"Predicted: about {plan.seconds / 60:.0f} minutes. Nothing was built.")


def _write(output: Path, question: Question, answer: Answer, hardware: Hardware, search: Any) -> dict[str, Any]:
    from pennyweight import report
    from pennyweight.search import evidence

    gathered = evidence.gather(question, answer, hardware, search.study.trials)
    evidence.write(output, gathered, answer.chosen)
    page = report.write(output / "report.html", gathered, search.study.trials)
    return {"evidence": gathered, "summary": evidence.summary(gathered, page)}


def _tell(result: dict[str, Any], output: Path, answer: Answer) -> None:
    from pennyweight.report.page import sentences
    from pennyweight.serve import catalogue

    for sentence in sentences(result["evidence"]):
        typer.echo(sentence)
    typer.echo(f"Report: {output / 'report.html'}")
    if answer.chosen is not None and answer.chosen.engine != catalogue.REMOTE:
        typer.echo(f"Serve it: pw serve {output}    Verify it: pw verify {output}")


def _infeasible(result: dict[str, Any]) -> str:
    from pennyweight.report.page import nearest_sentence

    return nearest_sentence(result["evidence"])
