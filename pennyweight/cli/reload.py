"""`pw reload DIR`: another service for a gateway that is running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reload(
    service: Annotated[Path, typer.Argument(help="Directory or file of the new service.")],
    port: Annotated[int, typer.Option(help="The gateway's port.")] = 8000,
) -> None:
    """Switch a running gateway to another service.

    No request is dropped."""
    from pennyweight import formats
    from pennyweight.paths import absolute
    from pennyweight.serve import gateway

    formats.read_service(service)  # refuse here what the gateway would refuse
    typer.echo(f"Serving {gateway.reload(port, absolute(service))}.")
