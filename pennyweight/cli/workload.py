"""`pw workload FILE`: what is in a workload, what is wrong with it, and which gates it can decide."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import options
from pennyweight.errors import UsageError


def workload(
    file: Annotated[str, typer.Argument(help="chat, extract, tasks, support, or a workload or trace file.")],
    model: Annotated[
        Path | None, typer.Option(help="Model directory, for token counts and its context; default: count words.")
    ] = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    skip_invalid: options.SkipInvalid = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write what was read as JSON lines of our own.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Describe a workload: lengths, labels, halves, odd rows."""
    from dataclasses import asdict

    from pennyweight import traces
    from pennyweight.measure.workload_report import describe
    from pennyweight.model import Model
    from pennyweight.tokenizer import Tokenizer

    if model is not None and not model.is_dir():
        raise UsageError(f"--model {model} is no directory: name a model's.")
    tokenizer = Tokenizer(model) if model else None
    context = int(Model.config_of(model).get("max_position_embeddings", 0)) if model else 0
    found = traces.load(file, trace_format, skip_invalid=typer.echo if skip_invalid else None)
    report = describe(
        found,
        seed=seed,
        length_of=(lambda request: len(tokenizer.request_tokens(request))) if tokenizer else None,
        context=context,
    )
    width = shutil.get_terminal_size((1000, 24)).columns  # whole lines where there is no terminal
    for line in report.lines():
        typer.echo(
            textwrap.fill(line, width, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)
        )
    if output is not None:
        traces.write(found, output)
        typer.echo(f"{len(found.requests)} requests in {output}.")
    if as_json:
        print(json.dumps(asdict(report)))
