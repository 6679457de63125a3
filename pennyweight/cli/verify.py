"""`pw verify DIR`: does a deployment still meet the limits it was accepted with?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import options


def verify(
    directory: Annotated[Path, typer.Argument(help="Output of `pw optimize -o`.")], as_json: options.AsJson = False
) -> None:
    """Check the artifact's checksums and run every gate again."""
    from pennyweight import codec
    from pennyweight.console import Live, figures
    from pennyweight.report import parts
    from pennyweight.search.verify import verify as run

    with Live() as live:
        result = run(directory, live.stage, live.progress)
    typer.echo(f"{result.verdict.outcome}: {figures(result.measurement)}")
    for line in parts.lines(result.measurement, None, result.verdict):
        typer.echo(line)
    if result.skipped:
        typer.echo(f"  Not checked, because this is another machine: {', '.join(result.skipped)}")
    if as_json:
        verdict = {"outcome": result.verdict.outcome, **codec.plain(result.verdict)}
        print(json.dumps({**verdict, **codec.plain(result.measurement), "skipped": list(result.skipped)}))
