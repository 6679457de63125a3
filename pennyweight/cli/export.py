"""`pw export`: for engines that we write for and do not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import artifacts, options


def export(
    model: artifacts.ModelArgument,
    engine: Annotated[str, typer.Option(help="sglang, tensorrt-llm or litert.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new directory.")],
    port: Annotated[int, typer.Option(help="That the command will listen on.")] = 8000,
    as_json: options.AsJson = False,
) -> None:
    """Write a checkpoint of MODEL and the command that serves it with an engine that does not run here."""
    from pennyweight.console import Live
    from pennyweight.inputs import open_model
    from pennyweight.serve import catalogue

    artifacts.refuse_output(output)
    with Live() as live:
        live.stage(f"Opening {model}")
        opened = open_model(model, live.progress)
        live.stage(f"Writing for {engine}")
        made = catalogue.export(opened, engine, output, port)
    typer.echo(f"{made.path}: {made.state}.")
    for name, told in made.checked.items():
        typer.echo(
            f"  {name}: {told['tokens_as_transformers']} of {told['of']} greedy tokens as transformers', "
            f"{told['tokens_per_s']:.0f} tokens/s"
        )
    if as_json:
        told = {"engine": engine, "path": str(made.path), "model": opened.id, "checked": dict(made.checked)}
        print(json.dumps({**told, "run_here": bool(made.checked)}))
