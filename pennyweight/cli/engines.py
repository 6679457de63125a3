"""`pw engines`: list the engines, install or remove those that have a separate environment, and try what they serve
right."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from pennyweight.cli import options


def engines(
    action: Annotated[str, typer.Argument(help="list, install, remove or conform.")] = "list",
    name: Annotated[str, typer.Argument(help="The engine; `conform` tries all without one.")] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="conform: write its page here.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List, install, remove or try engines.

    The list shows state, version, location, formats and presets. Engines with a separate environment can be installed
    and removed. `conform` serves tiny models of some 60 architectures and keeps what is right: about 4 minutes an
    engine, half an hour for vllm, which starts anew for each."""
    from pennyweight.errors import UsageError

    if action not in ("list", "install", "remove", "conform"):
        raise UsageError(f"pw engines has no action {action!r}: use list, install NAME, remove NAME or conform.")
    if action == "conform":
        conform(name, output, as_json=as_json)
        return
    if action != "list" and not name:
        raise UsageError(f"pw engines {action} needs the name of an engine.")
    if action == "list":
        show(name, as_json=as_json)
    else:
        change(action, name, as_json=as_json)  # type: ignore[arg-type]


def show(name: str, *, as_json: bool) -> None:
    from pennyweight.serve import catalogue

    offers = [catalogue.offer(engine) for engine in ([name] if name else catalogue.names())]
    for offer in offers:
        typer.echo(f"{offer.engine:<13}{offer.missing or f'{offer.version}, in {offer.where}'}")
        typer.echo(f"{'':<13}takes {offer.model_format}: {', '.join(offer.schemes)}")
        typer.echo(f"{'':<13}presets: {', '.join(offer.presets) or 'none'}; settings: {', '.join(offer.settings)}")
        if offer.warning:
            typer.echo(f"{'':<13}warning: {offer.warning}")
        typer.echo(f"{'':<13}install: {offer.install}")
    for export in [] if name else catalogue.EXPORTS.values():
        typer.echo(f"{export.name:<13}{export.state}: `pw export MODEL --engine {export.name} -o DIR`")
        typer.echo(f"{'':<13}takes huggingface: {', '.join(export.schemes)}")
        if export.recipe is not None:
            typer.echo(f"{'':<13}install: pw engines install {export.name}")
    if as_json:
        print(json.dumps([asdict(offer) for offer in offers]))


def conform(name: str, output: Path | None, *, as_json: bool) -> None:
    from pennyweight.conform import table
    from pennyweight.console import Live
    from pennyweight.errors import UsageError
    from pennyweight.serve import catalogue

    if name and name not in table.ENGINES:
        raise UsageError(f"{name!r} cannot be tried: use one of {', '.join(table.ENGINES)}.")
    wanted = [name] if name else [engine for engine in table.ENGINES if not catalogue.offer(engine).missing]
    catalogue.require(wanted)
    counts = {}
    with Live() as live:
        for engine in wanted:
            live.stage(f"Trying {engine}")
            results = table.fill(engine, live.progress)
            table.keep(engine, results)
            found = [row["result"] for row in results.values()]
            counts[engine] = {result: found.count(result) for result in ("right", "refused", "failed", "wrong")}
    for engine, count in counts.items():
        typer.echo(
            f"{engine}: {count['right']} right; refused: {count['refused']} not loaded, "
            f"{count['failed']} failing, {count['wrong']} wrong."
        )
    if output is not None:
        typer.echo(f"Page: {table.write_page(output)}")
    if as_json:
        print(json.dumps(counts))


def change(action: Literal["install", "remove"], name: str, *, as_json: bool) -> None:
    from pennyweight.console import Live
    from pennyweight.serve import catalogue

    if action == "remove":
        freed = catalogue.remove(name)
        typer.echo(f"Removed {name}: {freed / 1e6:.0f} MB freed.")
        if as_json:
            print(json.dumps({"removed": name, "bytes": freed}))
        return
    with Live() as live:
        place = catalogue.install(name, live.stage, live.progress)
    if name in catalogue.EXPORTS:
        typer.echo(f"Installed {name} in {place}.")
        if as_json:
            print(json.dumps({"engine": name, "where": str(place)}))
        return
    offer = catalogue.offer(name)
    typer.echo(f"Installed {name} {offer.version} in {place}.")
    if offer.warning:
        typer.echo(f"Warning: {offer.warning}")
    if as_json:
        print(json.dumps(asdict(offer)))
