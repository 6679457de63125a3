"""`pw cache`: list the cached artifacts and delete unused ones."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pennyweight.cli import options


def cache(
    action: Annotated[str, typer.Argument(help="list or prune.")] = "list",
    older_than: Annotated[str, typer.Option(help="With prune: unused for this long, such as 30d or 12h.")] = "30d",
    everything: Annotated[bool, typer.Option("--all", help="With prune: every artifact, however recent.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """List the cached artifacts, or delete unused ones.

    Deleted artifacts are built again when they are needed. Engines are removed with `pw engines remove NAME`.
    """
    from pennyweight import artifact_cache
    from pennyweight.console import duration
    from pennyweight.errors import UsageError
    from pennyweight.paths import cache_directory

    if action not in ("list", "prune"):
        raise UsageError(f"pw cache has no action {action!r}: use list or prune.")
    entries = artifact_cache.entries()
    if action == "prune":
        seconds = 0.0 if everything else options.age(older_than, "--older-than")
        removed = artifact_cache.prune(entries, seconds)
        freed = sum(entry.bytes for entry in removed)
        typer.echo(f"Removed {len(removed)} of {len(entries)} artifacts: {freed / 2**20:.0f} MiB freed.")
        if as_json:
            print(json.dumps({"removed": [entry.id for entry in removed], "bytes": freed}))
        return
    typer.echo(
        f"{cache_directory()}: {len(entries)} artifacts, {sum(entry.bytes for entry in entries) / 2**20:.0f} MiB"
    )
    for entry in entries:
        used = duration(entry.unused_seconds)
        typer.echo(f"{entry.id}  {entry.bytes / 2**20:>8.0f} MiB  used {used} ago  {entry.made_of}")
    if as_json:
        rows = [{"id": entry.id, "bytes": entry.bytes, "made_of": entry.made_of} for entry in entries]
        print(json.dumps({"cache": str(cache_directory()), "artifacts": rows}))
