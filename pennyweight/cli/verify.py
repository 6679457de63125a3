"""`pw verify DIR`: does a deployment still meet the limits it was accepted with?"""

from __future__ import annotations

import json
from dataclasses import asdict
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
    from pennyweight.paths import absolute
    from pennyweight.report import parts
    from pennyweight.search import calibration
    from pennyweight.search.verify import verify as run

    if calibration.serves_mixture(absolute(directory)):
        _verify_mixture(absolute(directory), as_json=as_json)
        return
    with Live() as live:
        result = run(directory, live.stage, live.progress)
    typer.echo(f"{result.verdict.outcome}: {figures(result.measurement)}")
    for line in parts.lines(result.measurement, None, result.verdict):
        typer.echo(line)
    if result.similar is not None:
        hits = result.similar
        told = f"{hits.hits} hits, {hits.wrong} wrong, at most {hits.bound:.1%} are"
        typer.echo(f"  similar answers: {told}, limit {hits.limit:.1%}: ACCEPT")
    if result.skipped:
        typer.echo(f"  Not checked, because this is another machine: {', '.join(result.skipped)}")
    if as_json:
        similar = {"similar": asdict(result.similar)} if result.similar else {}
        verdict = {"outcome": result.verdict.outcome, **codec.plain(result.verdict)}
        print(json.dumps({**verdict, **codec.plain(result.measurement), "skipped": list(result.skipped), **similar}))


def _verify_mixture(directory: Path, *, as_json: bool) -> None:
    from pennyweight import formats, verbs
    from pennyweight.console import Live
    from pennyweight.search import calibration

    with Live() as live:
        rules = [one.rule for one in formats.read_service(directory).mixtures.values() if one.rule.embeds]
        embed = verbs.embedding(live, wanted=bool(rules), place=rules[0].embedding if rules else "")
        said = calibration.verify_mixture(directory, embed, live.stage, live.progress)
    typer.echo(f"ACCEPT: {said[0]}")
    for sentence in said[1:]:
        typer.echo(f"  {sentence}")
    if as_json:
        print(json.dumps({"outcome": "ACCEPT", "sentences": said}))
