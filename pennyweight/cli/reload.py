"""`pw reload DIR`: another deployment for a gateway that is running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reload(
    deployment: Annotated[Path, typer.Argument(help="The new deployment's directory or file.")],
    port: Annotated[int, typer.Option(help="The gateway's port.")] = 8000,
) -> None:
    """Swap the deployment of a running gateway without dropping a request."""
    from pennyweight.cli.serve import evidence_of
    from pennyweight.deployment import Deployment
    from pennyweight.paths import absolute
    from pennyweight.serve import gateway

    Deployment.read(deployment)
    typer.echo(f"Serving {gateway.reload(port, absolute(deployment), evidence_of(str(deployment)))}.")
