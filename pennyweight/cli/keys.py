"""`pw keys`: who may ask a gateway, and how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pennyweight.errors import UsageError


def keys(
    action: Annotated[str, typer.Argument(help="list, add or remove.")],
    name: Annotated[str, typer.Argument(help="Whose key.")] = "",
    file: Annotated[Path, typer.Option(help="The file that `pw serve --keys` reads.")] = Path("keys.json"),
    requests_per_minute: Annotated[int, typer.Option(help="0: no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(help="Of prompts and answers; 0: no limit.")] = 0,
    priority: Annotated[int, typer.Option(help="0 is served first.")] = 0,
) -> None:
    """API keys of a gateway. A new key is printed once; the file holds its hash only."""
    from pennyweight.serve.gateway.keys import add, read, remove
    from pennyweight.serve.gateway.tenant import Tenant

    if action not in ("list", "add", "remove"):
        raise UsageError(f"pw keys knows no {action!r}: use list, add NAME or remove NAME.")
    if action == "list":
        for tenant in read(file):
            requests, tokens = tenant.requests_per_minute or "any", tenant.tokens_per_minute or "any"
            typer.echo(f"{tenant.name}: {requests} requests and {tokens} tokens a minute, priority {tenant.priority}")
        return
    if not name:
        raise UsageError(f"pw keys {action} needs a name.")
    if action == "remove":
        remove(file, name)
        typer.echo(f"Removed {name} from {file}; a running gateway knows it until it is started again.")
        return
    typer.echo(add(file, Tenant(name, "", requests_per_minute, tokens_per_minute, priority)))
