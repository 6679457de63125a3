"""`pw reload DIR`: another service for a gateway that is running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import options


def reload(
    target: Annotated[str, typer.Argument(help="Directory or file of the new service, or a model with --engine.")],
    engine: Annotated[str | None, typer.Option(help="Engine for a model's directory.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="Engine setting NAME=VALUE; repeatable.")] = None,
    served_model_name: Annotated[list[str] | None, typer.Option(help="Model name for clients; repeatable.")] = None,
    port: Annotated[int, typer.Option(help="The gateway's port.")] = 8000,
) -> None:
    """Switch a running gateway to another service.

    No request is dropped."""
    import tempfile

    from pennyweight import codec
    from pennyweight.errors import EngineError
    from pennyweight.inputs import is_described, read_target
    from pennyweight.paths import absolute
    from pennyweight.serve import gateway

    found = read_target(target, engine=engine, settings=options.settings(setting), names=served_model_name or ())
    if found.service is None:
        raise EngineError(f"{target} is served already: give a deployment.")
    if is_described(target):
        typer.echo(f"Serving {gateway.reload(port, absolute(target))}.")
        return
    with tempfile.TemporaryDirectory(prefix="pennyweight-") as place:
        file = Path(place) / "service.json"
        file.write_text(json.dumps(codec.plain(found.service)))
        typer.echo(f"Serving {gateway.reload(port, file)}.")
