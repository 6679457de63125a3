"""`pw engines`: list the engines, and install or remove those that have a separate environment."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from pennyweight.cli import options


def engines(
    action: Annotated[str, typer.Argument(help="list, install or remove.")] = "list",
    name: Annotated[str, typer.Argument(help="The engine to install or remove.")] = "",
    as_json: options.AsJson = False,
) -> None:
    """List, install or remove engines.

    The list shows state, version, location, formats and presets. Engines with a separate environment can be installed
    and removed."""
    from pennyweight.errors import UsageError

    if action not in ("list", "install", "remove"):
        raise UsageError(f"pw engines has no action {action!r}: use list, install NAME or remove NAME.")
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
