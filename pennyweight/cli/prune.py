"""`pw prune`: fewer blocks or experts, narrower blocks, or single weights set to zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pennyweight.cli import artifacts, options
from pennyweight.errors import UsageError

if TYPE_CHECKING:
    from pennyweight.model import Model
    from pennyweight.techniques.base import Technique

SPARSE = "Note: no engine here skips single zeros, so none gets faster (docs/techniques/sparsity.md)."


def prune(
    model: artifacts.ModelArgument,
    layers: Annotated[int | None, typer.Option(help="Blocks to keep.")] = None,
    intermediate_size: Annotated[int, typer.Option(help="Feed-forward neurons to keep in each block.")] = 0,
    experts: Annotated[int | None, typer.Option(help="Experts of each block to keep.")] = None,
    kv_groups: Annotated[int, typer.Option(help="Key-value heads to keep, with their query heads.")] = 0,
    hidden_size: Annotated[int, typer.Option(help="Hidden channels to keep.")] = 0,
    target_params: Annotated[str | None, typer.Option(help="Parameters to keep in all, as 100M; see --by.")] = None,
    by: Annotated[str, typer.Option(help="What --target-params removes: layers or neurons.")] = "layers",
    sparsity: Annotated[str | None, typer.Option(help="Weights to set to zero: 50% or 2:4.")] = None,
    criterion: Annotated[str, typer.Option(help="wanda or magnitude, for --sparsity.")] = "wanda",
    ranking: Annotated[str, typer.Option(help="Ranking of blocks: loss (measured) or influence.")] = "loss",
    workload: options.WorkloadName = "chat",
    output: artifacts.Output = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    adapter: options.Adapter = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove blocks, experts, channels or weights from MODEL.

    Those that matter least on the workload's tuning half go first; `pw distill` recovers much of the lost quality."""
    from pennyweight import techniques
    from pennyweight.console import Live
    from pennyweight.inputs import open_model
    from pennyweight.techniques.depth import Depth, layers_for
    from pennyweight.techniques.experts import Experts
    from pennyweight.techniques.layout import changeable
    from pennyweight.techniques.sparsity import Sparsity
    from pennyweight.techniques.width import Width, intermediate_for

    artifacts.refuse_output(output)
    target = artifacts.count(target_params, "--target-params")
    if by not in ("layers", "neurons"):
        raise UsageError(f"--by {by!r} is unknown: use layers or neurons.")
    if target and (layers or intermediate_size):
        raise UsageError("--target-params contradicts --layers and --intermediate-size: use one of them.")
    with Live() as live:
        live.stage(f"Opening {model}")
        opened = open_model(model, live.progress, adapter=adapter)
        texts = artifacts.tuning_texts(opened, workload, trace_format, seed)
        shape = changeable(opened.config)
        if target and target >= shape.parameters:
            raise UsageError(f"{opened.name} has {shape.parameters / 1e6:.1f}M parameters already: ask for fewer.")
        if target and by == "layers":
            layers = layers_for(shape, target)
        elif target:
            intermediate_size = intermediate_for(shape, target)
        steps: list[Technique] = []
        if layers is not None:
            steps.append(Depth(layers, ranking, texts, seed))
        if experts is not None:
            steps.append(Experts(experts, calibration=texts, seed=seed))
        if intermediate_size or kv_groups or hidden_size:
            steps.append(Width(intermediate_size, kv_groups, hidden_size, calibration=texts, seed=seed))
        if sparsity is not None:
            steps.append(Sparsity(sparsity, criterion, texts if criterion == "wanda" else ()))
        if not steps:
            raise UsageError(
                "Say what to remove: --layers, --experts, --intermediate-size, --kv-groups, --hidden-size, "
                "--target-params or --sparsity."
            )
        made: Model = opened
        for step in steps:
            live.stage(f"Pruning {opened.name}: {step.name}")
            made = techniques.apply(step, made, live.progress)
    if sparsity is not None:
        typer.echo(SPARSE)
    artifacts.copy_and_report(opened, made, output, as_json=as_json)
