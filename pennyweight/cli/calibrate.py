"""`pw calibrate DIR -w traffic.jsonl`: certify a mixture again, on new traffic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import options


def calibrate(
    directory: Annotated[Path, typer.Argument(help="Output of `pw optimize --mix … -o`.")],
    workload: options.WorkloadName,
    trace_format: options.TraceFormat = None,
    num_prompts: options.NumPrompts = None,
    seed: options.Seed = 0,
    resume: Annotated[bool, typer.Option(help="Keep the answers of a calibration that was cut off.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Certify a mixture again, on new traffic."""
    from pennyweight import codec, verbs
    from pennyweight.console import Live
    from pennyweight.inputs import read_workload
    from pennyweight.paths import absolute
    from pennyweight.search import calibration
    from pennyweight.search.mixture_result import certificate_sentence

    place = absolute(directory)
    with Live() as live:
        mixed = calibration.read_mixed(place)
        model = Path(mixed.service.members[mixed.mixture.large].model_path)
        traffic = read_workload(workload, trace_format, num_prompts=num_prompts, seed=seed, tokenizer=model)
        rule = mixed.mixture.rule
        embed = verbs.embedding(live, wanted=rule.embeds, place=rule.embedding)
        found = calibration.calibrate(place, traffic, embed, stage=live.stage, progress=live.progress, resume=resume)
    typer.echo(certificate_sentence(found.certificate))
    typer.echo(f"{directory} serves it from now on; a gateway that runs: pw reload {directory} --port PORT")
    if as_json:
        print(json.dumps({"certificate": codec.plain(found.certificate), "departures": found.departures}))
