"""`pw share-kv-heads`: a smaller key-value cache."""

from __future__ import annotations

from typing import Annotated

import typer

from pennyweight.cli import artifacts, options


def share_kv_heads(
    model: artifacts.ModelArgument,
    heads: Annotated[int, typer.Option(help="Key-value heads to keep; must divide the model's number.")],
    output: artifacts.Output = None,
    adapter: options.Adapter = None,
    as_json: options.AsJson = False,
) -> None:
    """Average neighbouring key-value heads of MODEL into one.

    This costs much quality until the model is trained with `pw distill`."""
    from pennyweight import techniques
    from pennyweight.console import Live
    from pennyweight.inputs import open_model
    from pennyweight.shape import ModelShape
    from pennyweight.techniques.key_value_heads import KeyValueHeads

    artifacts.refuse_output(output)
    with Live() as live:
        live.stage(f"Opening {model}")
        opened = open_model(model, live.progress, adapter=adapter)
        live.stage(f"Sharing the key-value heads of {opened.name}")
        made = techniques.apply(KeyValueHeads(heads), opened, live.progress)
    before = ModelShape.of(opened.config).num_key_value_heads
    typer.echo(f"{heads} key-value heads of {before}: {before / heads:.3g} times fewer cache bytes per token")
    artifacts.copy_and_report(opened, made, output, as_json=as_json, heads=heads)
