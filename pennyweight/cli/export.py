"""`pw export`: checkpoints for engines that pennyweight does not serve with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import artifacts, options


def export(
    model: artifacts.ModelArgument,
    engine: Annotated[str, typer.Option(help="sglang, tensorrt-llm or litert.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to create.")],
    port: Annotated[int, typer.Option(help="Port in the serving command.")] = 8000,
    adapter: options.Adapter = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a checkpoint and a command for another engine.

    Pennyweight does not serve with these engines: the command starts one on MODEL's new checkpoint."""
    from pennyweight.console import Live
    from pennyweight.inputs import open_model
    from pennyweight.serve import catalogue

    artifacts.refuse_output(output)
    with Live() as live:
        live.stage(f"Opening {model}")
        opened = open_model(model, live.progress, adapter=adapter)
        live.stage(f"Writing for {engine}")
        made = catalogue.export(opened, engine, output, port)
    typer.echo(f"{made.path}: {made.state}.")
    for name, result in made.checked.items():
        typer.echo(
            f"  {name}: {result['tokens_as_transformers']} of {result['of']} greedy tokens as transformers', "
            f"{result['tokens_per_s']:.0f} tokens/s"
        )
    if as_json:
        row = {"engine": engine, "path": str(made.path), "model": opened.id, "checked": dict(made.checked)}
        print(json.dumps({**row, "run_here": bool(made.checked)}))
