"""`pw doctor`: this machine, the engines, and what is missing."""

from __future__ import annotations

import json
import shutil

import typer

from pennyweight.cli import options


def doctor(as_json: options.AsJson = False) -> None:
    """Show the hardware, its measured rates and the engines.

    For an engine that is missing, the command that installs it is shown."""
    from pennyweight import codec
    from pennyweight.console import Live
    from pennyweight.paths import cache_directory
    from pennyweight.plan.machine import measured_hardware
    from pennyweight.serve import catalogue

    with Live() as live:
        live.stage("Measuring this machine")
        hardware = measured_hardware(fresh=True)
    offers = [catalogue.offer(name) for name in catalogue.names()]
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    typer.echo(
        f"CPU        {hardware.cpu}, {hardware.cores} cores, {' '.join(hardware.flags) or 'no special instructions'}"
    )
    typer.echo(
        f"Memory     {hardware.memory_bytes / 2**30:.1f} GiB, read at {hardware.memory_bandwidth / 2**30:.1f} GiB/s"
    )
    if hardware.busy_cores:
        typer.echo(f"           measured while others used {hardware.busy_cores:.1f} cores: run it again when idle")
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in hardware.arithmetic_rate.items())
    typer.echo(f"Arithmetic {rates} billion operations/s")
    sizes = [f", {size / 2**30:.1f} GiB free" for size in hardware.gpu_free_bytes] or [""] * len(hardware.gpus)
    gpus = [name + size for name, size in zip(hardware.gpus, sizes, strict=False)]
    typer.echo(f"GPU        {'; '.join(gpus) or 'none'}")
    typer.echo(f"NUMA nodes {hardware.numa_nodes}")
    typer.echo(f"Cache      {cache}, {free / 2**30:.0f} GiB free")
    for offer in offers:
        state = offer.missing or f"{offer.version}, {offer.model_format}: {', '.join(offer.schemes)}"
        typer.echo(f"{offer.engine:<13}{state}")
    if as_json:
        engines = {o.engine: {"version": o.version, "missing": o.missing, "schemes": o.schemes} for o in offers}
        print(
            json.dumps({"hardware": codec.plain(hardware), "engines": engines, "cache": str(cache), "free_bytes": free})
        )
