"""`pw trim-vocabulary`: a smaller vocabulary with the tokens that the user's texts use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import artifacts, options
from pennyweight.errors import UsageError


def trim_vocabulary(
    model: artifacts.ModelArgument,
    tokens: Annotated[int, typer.Option(help="Tokens to keep, a multiple of 64; 0: half.")] = 0,
    corpus: Annotated[list[Path] | None, typer.Option(help="A text file of the user's; repeat for more.")] = None,
    workload: options.WorkloadName = "chat",
    output: artifacts.Output = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    adapter: options.Adapter = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove tokens that the workload does not use.

    Kept are the tokens of the workload's tuning half and of --corpus, then the most common ones. Any text still
    round-trips; inside the kept vocabulary the greedy answers stay the same."""
    from pennyweight import techniques
    from pennyweight.console import Live
    from pennyweight.inputs import open_model
    from pennyweight.shape import ModelShape
    from pennyweight.techniques.vocabulary import Vocabulary

    artifacts.refuse_output(output)
    read = []
    for file in corpus or []:
        try:
            read.append(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--corpus {file} cannot be read ({error}): give a UTF-8 text file.") from None
    with Live() as live:
        live.stage(f"Opening {model}")
        opened = open_model(model, live.progress, adapter=adapter)
        texts = (*artifacts.tuning_texts(opened, workload, trace_format, seed), *read)
        live.stage(f"Trimming the vocabulary of {opened.name}")
        made = techniques.apply(Vocabulary(tokens, texts), opened, live.progress)
    kept = ModelShape.of(made.config).vocabulary
    typer.echo(f"{kept} tokens of {ModelShape.of(opened.config).vocabulary}")
    artifacts.copy_and_report(opened, made, output, as_json=as_json, tokens=kept)
