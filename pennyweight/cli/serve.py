"""`pw serve DIR`: serve a deployment until told to stop."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from pennyweight.cli import options
from pennyweight.errors import EngineError


def serve(
    target: Annotated[str, typer.Argument(help="A deployment's directory or file, or with --engine a model.")],
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind to.")] = 8000,
    engine: Annotated[str | None, typer.Option(help="Serve the model directory TARGET with this engine.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="An engine setting, name=value.")] = None,
    speculative_config: options.SpeculativeConfig = None,
    start_timeout: Annotated[float, typer.Option(help="Seconds that the engine may take to get ready.")] = 300.0,
    log: Annotated[Path | None, typer.Option(help="File for the engine's log.")] = None,
) -> None:
    """Serve a deployment with the OpenAI API."""
    from pennyweight.cli.targets import parse
    from pennyweight.serve import catalogue
    from pennyweight.serve import serve as running

    parsed = parse(target, engine, {**options.settings(setting), **options.speculation(speculative_config)})
    if parsed.deployment is None or parsed.deployment.engine == catalogue.REMOTE:
        raise EngineError(f"{target} is served already: give a deployment.")
    signal.signal(signal.SIGTERM, _interrupt)
    with running(parsed.deployment, host=host, port=port, log=log, start_timeout=start_timeout) as endpoint:
        typer.echo(f"{parsed.label} at {endpoint.base_url}/v1, model {endpoint.model!r}. Ctrl-C stops it.")
        process = endpoint.engine
        assert process is not None
        try:
            while process.alive:
                time.sleep(0.2)
        except KeyboardInterrupt:
            typer.echo("Stopping.")
            return
        raise EngineError(f"The engine ended by itself: {process.last_words() or 'it wrote nothing'}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt
