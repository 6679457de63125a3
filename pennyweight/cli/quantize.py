"""`pw quantize`: quantize one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import options
from pennyweight.errors import StorageError


def quantize(
    model: Annotated[str, typer.Argument(help="A Hub id, a Hugging Face directory, a .gguf file, or `demo`.")],
    scheme: Annotated[
        str, typer.Option(help="F16, BF16, Q8_0, Q4_K_M, Q4_0 (GGUF); FP32, INT8, INT8_STATIC, INT4 (ONNX).")
    ],
    workload: options.WorkloadName = "chat",
    iterations: Annotated[int, typer.Option(help="Tuning iterations; 0 searches scales only.")] = 0,
    rounding: Annotated[str, typer.Option(help="searched, or nearest: Q4_0 as `distill --round-to` trains for.")] = (
        "searched"
    ),
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Copy the artifact here as well.")] = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    adapter: options.Adapter = None,
    as_json: options.AsJson = False,
) -> None:
    """Quantize MODEL, calibrated on the workload's tuning half."""
    import shutil

    from pennyweight import techniques
    from pennyweight.console import Live
    from pennyweight.inputs import open_model, read_workload
    from pennyweight.schemes import scheme as scheme_of
    from pennyweight.techniques.quantize import Quantize
    from pennyweight.workload import texts

    if output is not None and output.exists():
        raise StorageError(f"{output} is already there: choose another directory with -o.")
    Quantize(scheme, iterations, (), rounding)  # refuse a wrong scheme before the model is opened
    with Live() as live:
        live.stage(f"Opening {model}")
        opened = open_model(model, live.progress, adapter=adapter)
        calibration: tuple[str, ...] = ()
        if scheme_of(scheme).calibrated:
            tuning, _ = read_workload(workload, trace_format, seed=seed, tokenizer=opened.path).split(seed)
            calibration = tuple(texts(tuning.requests))
        live.stage(f"Quantizing {opened.name} to {scheme}")
        made = techniques.apply(Quantize(scheme, iterations, calibration, rounding), opened, live.progress)
    if output is not None:
        shutil.copytree(made.path, output)
    place = output or made.path
    ratio = opened.weight_bytes / made.weight_bytes
    typer.echo(
        f"{scheme}: {made.weight_bytes / 1e6:.4g} MB, {ratio:.2f} times smaller than {opened.scheme}, in {place}"
    )
    if as_json:
        row = {"scheme": scheme, "id": made.id, "path": str(place), "bytes": made.weight_bytes, "smaller": ratio}
        print(json.dumps(row))
