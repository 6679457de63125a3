"""`pw keys`: the API keys of a gateway and their rate limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import options
from pennyweight.errors import UsageError


def keys(
    action: Annotated[str, typer.Argument(help="list, add or remove.")],
    name: Annotated[str, typer.Argument(help="Name of the key's owner.")] = "",
    file: Annotated[Path, typer.Option(help="The file that `pw serve --keys` reads.")] = Path("keys.json"),
    requests_per_minute: Annotated[int, typer.Option(help="Requests per minute; 0: no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(help="Prompt and answer tokens per minute; 0: no limit.")] = 0,
    priority: Annotated[int, typer.Option(help="Scheduling priority; 0 is served first.")] = 0,
) -> None:
    """List, add or remove API keys of a gateway.

    A new key is printed once; the file holds only its hash."""
    from pennyweight.serve.gateway.keys import add, read, remove
    from pennyweight.serve.gateway.tenant import Tenant

    if action not in ("list", "add", "remove"):
        raise UsageError(f"pw keys has no action {action!r}: use list, add NAME or remove NAME.")
    if action == "list":
        if not file.exists():
            raise UsageError(f"{file} does not exist: add a key with `pw keys add NAME --file {file}`.")
        for tenant in read(file):
            requests, tokens = tenant.requests_per_minute or "any", tenant.tokens_per_minute or "any"
            typer.echo(f"{tenant.name}: {requests} requests and {tokens} tokens a minute, priority {tenant.priority}")
        return
    if not name:
        raise UsageError(f"pw keys {action} needs a name.")
    if action == "remove":
        remove(file, name)
        typer.echo(f"Removed {name} from {file}; a running gateway refuses it within seconds.")
        return
    options.refuse_unwritable(file)
    typer.echo(add(file, Tenant(name, "", requests_per_minute, tokens_per_minute, priority)))
