"""`pw cache`: list the cached artifacts and delete unused ones."""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import typer

from pennyweight.cli import options


def cache(
    action: Annotated[str, typer.Argument(help="list, prune, inspect, forget or refit.")] = "list",
    answer: Annotated[str, typer.Argument(help="With forget: the answer's id, from x-pennyweight-answer.")] = "",
    file: Annotated[
        str | None, typer.Option(help="With inspect, forget and refit: the file or redis://… of `pw serve --cache`.")
    ] = None,
    older_than: Annotated[str, typer.Option(help="With prune: unused for this long, such as 30d or 12h.")] = "30d",
    everything: Annotated[bool, typer.Option("--all", help="With prune: every artifact, however recent.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """List or delete cached artifacts and similar answers.

    Deleted artifacts are built again when they are needed. Engines are removed with `pw engines remove NAME`.
    """
    from pennyweight import artifact_cache
    from pennyweight.console import duration
    from pennyweight.errors import UsageError
    from pennyweight.paths import cache_directory

    if file is not None and action in ("list", "prune"):
        raise UsageError(
            f"pw cache {action} is about artifacts and takes no --file: inspect, forget and refit are about answers."
        )
    if action == "forget" and not answer:
        raise UsageError("pw cache forget needs the id of an answer, from x-pennyweight-answer or `pw cache inspect`.")
    if action != "forget" and answer:
        raise UsageError(f"pw cache {action} takes no {answer!r}: only forget takes the id of an answer.")
    if action == "refit":
        _refit(file, as_json=as_json)
        return
    if action in ("inspect", "forget"):
        _answers(action, answer, file, as_json=as_json)
        return
    if action not in ("list", "prune"):
        raise UsageError(f"pw cache has no action {action!r}: use list, prune, inspect, forget or refit.")
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


def _refit(file: str | None, *, as_json: bool) -> None:
    """Fits the gate of similar questions to the labels that a gateway collected in this file."""
    import asyncio
    from pathlib import Path

    import numpy as np

    from pennyweight import codec
    from pennyweight.errors import UsageError
    from pennyweight.serve.gateway.similar_opening import kept_in_file
    from pennyweight.similarity.gate import FEATURES, shipped_gate
    from pennyweight.similarity.refitting import refit

    if file is None:
        raise UsageError("pw cache refit needs the file of `pw serve --cache`: give it with --file.")
    if "://" in file:
        raise UsageError(f"pw cache refit cannot fit a gate in {file}: it takes a file of `pw serve --cache`.")
    store = kept_in_file(Path(file))
    labels = [label for label in store.all_labels() if len(label.features) == len(FEATURES)]
    rows = np.array([label.features for label in labels]).reshape(len(labels), len(FEATURES))
    found = refit(shipped_gate(), rows, np.array([float(not label.wrong) for label in labels]))
    told = f"{found.labels} labels, {found.wrong} of them wrong: {found.after:.3f} nats a label on folds left out"
    if found.better:
        store.set_gate(json.dumps(codec.plain(found.gate)))
        store.flush()
        typer.echo(f"{told}, {found.before:.3f} before. {Path(file).name} has the new gate: restart its gateways.")
        typer.echo("The bound is earned again, because it was earned by the old gate.")
    else:
        typer.echo(f"{told}, {found.before:.3f} by the shipped gate: nothing was changed.")
    asyncio.run(store.close())
    if as_json:
        row = {"labels": found.labels, "wrong": found.wrong, "before": found.before, "after": found.after}
        print(json.dumps({**row, "changed": found.better}))


def _answers(action: str, answer: str, file: str | None, *, as_json: bool) -> None:
    """The similar answers that a gateway keeps in this file, or in Redis."""
    from pennyweight.console import duration
    from pennyweight.errors import UsageError
    from pennyweight.serve.gateway.similar_opening import kept_in

    if file is None:
        raise UsageError(f"pw cache {action} needs the file of `pw serve --cache`: give it with --file.")
    store = kept_in(file)
    if action == "forget":
        if not store.forget(answer):
            raise UsageError(
                f"{file} has no answer {answer!r}: `pw cache inspect --file {shlex.quote(file)}` lists them."
            )
        typer.echo(f"Forgot {answer}: it is not served again, by no gateway that uses this file.")
        return
    rows = store.all()
    typer.echo(f"{file}: {len(rows)} answers to similar questions")
    for kept in rows:
        typer.echo(f"{kept.id}  {duration(kept.age)} old  {kept.question[:60]!r} -> {kept.text[:60]!r}")
    if as_json:
        found = [{"id": k.id, "age_s": round(k.age), "question": k.question, "answer": k.text} for k in rows]
        print(json.dumps({"file": str(file), "answers": found}))
