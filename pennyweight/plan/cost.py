"""The cost model: a decoding step moves the weights and every stream's keys and values once, and does two operations
per weight and stream; a prompt does two per weight and token. Whichever of memory and arithmetic is slower sets the
pace (the roofline of Williams et al. 2009, doi.org/10.1145/1498765.1498785).

How close an engine comes to these limits is a property of the engine, its `Efficiency`, and is corrected in a search by
what the first trial of each engine shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pennyweight import schemes
from pennyweight.hardware import Efficiency, Hardware
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.shape import ModelShape

CACHE_BYTES = 2  # of one number in the key-value cache
PROCESS_BYTES = 300e6  # Python and the runtime's libraries


@dataclass(frozen=True)
class Load:
    """The load that a workload puts on a server: mean prompt and answer tokens, and streams at once."""

    prompt_tokens: float
    output_tokens: float
    streams: int


def step_seconds(shape: ModelShape, scheme: str, efficiency: Efficiency, hardware: Hardware, load: Load) -> float:
    """Seconds of one decoding step of all streams."""
    context = load.prompt_tokens + load.output_tokens / 2
    weights = shape.read_parameters(load.streams) * schemes.scheme(scheme).bits / 8
    moved = weights + load.streams * context * CACHE_BYTES * shape.cache_values_per_token
    memory = moved / (hardware.memory_bandwidth * efficiency.memory)
    done = 2 * shape.used_parameters * load.streams
    return max(memory, done / _rate(scheme, hardware, efficiency)) + shape.layers * efficiency.layer_seconds


def prompt_seconds(shape: ModelShape, scheme: str, efficiency: Efficiency, hardware: Hardware, tokens: float) -> float:
    """Seconds to read one prompt of this many tokens alone."""
    return (
        2 * shape.used_parameters * tokens / _rate(scheme, hardware, efficiency)
        + shape.layers * efficiency.layer_seconds
    )


def predict(
    subject: str,
    config: Mapping[str, Any],
    scheme: str,
    efficiency: Efficiency,
    hardware: Hardware,
    *,
    load: Load,
    correction: float = 1.0,
) -> Measurement:
    """Throughput, latencies and memory in a closed loop. `correction` multiplies all times."""
    shape = ModelShape.of(config)
    step = correction * step_seconds(shape, scheme, efficiency, hardware, load)
    prompt = correction * prompt_seconds(shape, scheme, efficiency, hardware, load.prompt_tokens)
    # Every stream's prompt is read by the same machine that decodes for the others meanwhile.
    per_token = step + load.streams * prompt / load.output_tokens
    memory = PROCESS_BYTES + shape.read_parameters(shape.experts or 1) * schemes.scheme(scheme).bits / 8
    memory += load.streams * (load.prompt_tokens + load.output_tokens) * CACHE_BYTES * shape.cache_values_per_token
    answer = prompt + per_token * load.output_tokens
    values = [
        ("output_throughput", load.streams / per_token, "tokens/s", "higher"),
        ("tpot_p50_ms", 1000 * per_token, "ms", "lower"),
        ("ttft_p50_ms", 1000 * (prompt + step), "ms", "lower"),
        ("e2e_p50_ms", 1000 * answer, "ms", "lower"),
        ("peak_memory_bytes", memory, "bytes", "lower"),
    ]
    quantities = [Quantity(n, v, u, b, predicted=True) for n, v, u, b in values]  # type: ignore[arg-type]
    return collect(subject, quantities, {"streams": load.streams, "correction": correction})


def _rate(scheme: str, hardware: Hardware, efficiency: Efficiency) -> float:
    """Operations/s in the number type that this scheme is multiplied in, f32 where the machine or engine lacks it."""
    kind: str = schemes.scheme(scheme).arithmetic
    if kind not in hardware.arithmetic_rate or kind not in efficiency.arithmetic:
        kind = "f32"
    return hardware.arithmetic_rate[kind] * efficiency.arithmetic[kind]
