"""`pw draft`: a draft model for speculative decoding."""

from __future__ import annotations

import json
import shutil
from typing import Annotated

import typer

from pennyweight.cli import artifacts, options


def draft(
    model: artifacts.ModelArgument,
    layers: Annotated[int, typer.Option(help="Blocks that the draft keeps; 0: a fifth.")] = 0,
    steps: Annotated[int, typer.Option(help="Distillation steps on the target's answers.")] = 200,
    num_speculative_tokens: Annotated[int, typer.Option(help="Draft tokens per step of the target.")] = 4,
    workload: options.WorkloadName = "chat",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of each comparison.")] = 3,
    output: artifacts.Output = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    as_json: options.AsJson = False,
) -> None:
    """Make and measure a draft model for MODEL.

    The draft is pruned from MODEL and distilled on its answers. On the held-out half, its acceptance length and the
    speed-up by speculative decoding at 1 and 16 streams are measured."""
    from pennyweight.console import Live
    from pennyweight.inputs import open_model, read_workload
    from pennyweight.search.drafting import DraftRequest
    from pennyweight.search.drafting import draft as make
    from pennyweight.techniques.layout import changeable

    artifacts.refuse_output(output)
    with Live() as live:
        live.stage(f"Opening {model}")
        opened = open_model(model, live.progress)
        requests = read_workload(workload, trace_format, seed=seed, tokenizer=opened.path)
        kept = layers or max(1, changeable(opened.config).layers // 5)
        asked = DraftRequest(opened, requests, kept, steps, num_speculative_tokens, rounds=rounds, seed=seed)
        made = make(asked, live)
    if output is not None:
        shutil.copytree(made.model.path, output)
    before, after = made.before["acceptance_length"], made.after["acceptance_length"]
    typer.echo(f"Acceptance length {after:.2f} tokens per step of the target ({before:.2f} before distillation)")
    for streams, c in made.speedups.items():
        gain = "no gain" if c.interval[0] <= 1 else "a gain"
        typer.echo(
            f"{streams} streams: {c.ratio:.2f} times as fast with it "
            f"(95% confidence {c.interval[0]:.2f} to {c.interval[1]:.2f}): {gain}"
        )
    typer.echo(f"The draft is in {output or made.model.path}: set the openvino engine's draft_model to it.")
    if as_json:
        print(json.dumps(made.as_json()))
