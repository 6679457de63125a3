"""The cost model: a decoding step moves the weights and every stream's keys and values once, and does two operations
per weight and stream; a prompt does two per weight and token. Whichever of memory and arithmetic is slower sets the
pace (the roofline of Williams et al. 2009, doi.org/10.1145/1498765.1498785).

How close an engine comes to these limits is a property of the engine: `Efficiency`, from our own measurements in
docs/log.md, and corrected in a search by what the first trial of each engine shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pennyweight.hardware import Hardware
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.model import cache_values_per_token

# Bits per weight of the block matrices, the embedding or head included where the scheme converts it.
BITS = {
    "F32": 32.0,
    "FP32": 32.0,
    "BF16": 16.0,
    "F16": 16.0,
    "Q8_0": 8.5,
    "INT8": 8.5,
    "INT8_STATIC": 8.2,
    "Q4_K_M": 5.5,
    "Q4_0": 4.9,
    "INT4": 4.5,
    "W8A8": 8.1,
    "W4A16": 4.5,
}
# The number type in which an engine multiplies, by scheme; what is missing multiplies in f32.
ARITHMETIC = {
    "BF16": "bf16",
    "F16": "bf16",
    "Q8_0": "int8",
    "Q4_K_M": "int8",
    "Q4_0": "int8",
    "INT8": "int8",
    "INT8_STATIC": "int8",
    "INT4": "int8",
    "W8A8": "int8",
    "W4A16": "bf16",
}


@dataclass(frozen=True)
class Efficiency:
    """Shares of the machine's limits that an engine reaches, and what each layer of a step costs it besides.
    `arithmetic` is by number type: an engine whose integer kernels gain little over its float ones has a low share."""

    memory: float
    arithmetic: Mapping[str, float]
    layer_seconds: float


# By engine, or by engine and scheme where its kernels are others. SmolLM2 on 2 cores of an AMD EPYC with AVX-512 BF16
# and VNNI, 2026-11-21 and 22: docs/log.md.
EFFICIENCY = {
    "transformers": Efficiency(0.5, {"f32": 0.5, "bf16": 0.25}, layer_seconds=0.00060),
    "openvino": Efficiency(0.55, {"f32": 0.5, "bf16": 0.40, "int8": 0.40}, layer_seconds=0.00015),
    "onnxruntime": Efficiency(0.5, {"f32": 0.60, "int8": 0.18}, layer_seconds=0.00015),
    "onnxruntime INT8_STATIC": Efficiency(0.5, {"f32": 0.60, "int8": 0.40}, layer_seconds=0.00015),
    "llamacpp": Efficiency(0.6, {"f32": 0.3, "bf16": 0.2, "int8": 0.2}, layer_seconds=0.0001),
    "vllm": Efficiency(0.5, {"f32": 0.5, "bf16": 0.5, "int8": 0.5}, layer_seconds=0.0004),
}
UNKNOWN_BITS = 16
UNKNOWN = Efficiency(0.5, {"f32": 0.5, "bf16": 0.25, "int8": 0.2}, layer_seconds=0.0003)
PROCESS_BYTES = 300e6  # Python and the runtime's libraries


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a decoder that cost anything, from its config.json."""

    parameters: float
    layers: int
    cache_bytes_per_token: float

    @staticmethod
    def of(config: Mapping[str, Any]) -> ModelShape:
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        heads = config["num_attention_heads"]
        groups = config.get("num_key_value_heads") or heads
        width = config.get("head_dim") or hidden // heads
        attention = 2 * hidden * width * (heads + groups)
        feed_forward = 3 * hidden * config["intermediate_size"]
        # A tied embedding serves as the head too; an untied one is only looked up.
        parameters = layers * (attention + feed_forward) + config["vocab_size"] * hidden
        return ModelShape(parameters, layers, 2 * cache_values_per_token(config))


@dataclass(frozen=True)
class Load:
    """What a workload asks of a server: mean prompt and answer tokens, and streams at once."""

    prompt_tokens: float
    output_tokens: float
    streams: int


def step_seconds(shape: ModelShape, scheme: str, engine: str, hardware: Hardware, load: Load) -> float:
    """One decoding step of all streams."""
    efficiency = _efficiency(engine, scheme)
    context = load.prompt_tokens + load.output_tokens / 2
    moved = shape.parameters * BITS.get(scheme, UNKNOWN_BITS) / 8 + load.streams * context * shape.cache_bytes_per_token
    memory = moved / (hardware.memory_bandwidth * efficiency.memory)
    done = 2 * shape.parameters * load.streams
    return max(memory, done / _rate(scheme, hardware, efficiency)) + shape.layers * efficiency.layer_seconds


def prompt_seconds(shape: ModelShape, scheme: str, engine: str, hardware: Hardware, tokens: float) -> float:
    """One prompt of so many tokens, read alone."""
    efficiency = _efficiency(engine, scheme)
    return 2 * shape.parameters * tokens / _rate(scheme, hardware, efficiency) + shape.layers * efficiency.layer_seconds


def predict(
    subject: str,
    config: Mapping[str, Any],
    scheme: str,
    engine: str,
    hardware: Hardware,
    load: Load,
    correction: float = 1.0,
) -> Measurement:
    """Throughput, latencies and memory in a closed loop. `correction` multiplies all times."""
    shape = ModelShape.of(config)
    step = correction * step_seconds(shape, scheme, engine, hardware, load)
    prompt = correction * prompt_seconds(shape, scheme, engine, hardware, load.prompt_tokens)
    # Every stream's prompt is read by the same machine that decodes for the others meanwhile.
    per_token = step + load.streams * prompt / load.output_tokens
    memory = PROCESS_BYTES + shape.parameters * BITS.get(scheme, UNKNOWN_BITS) / 8
    memory += load.streams * (load.prompt_tokens + load.output_tokens) * shape.cache_bytes_per_token
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


def kernels(engine: str, scheme: str) -> str:
    """What schemes share whose efficiency is one: the engine, and the scheme where it has kernels of its own."""
    both = f"{engine} {scheme}"
    return both if both in EFFICIENCY else engine


def _efficiency(engine: str, scheme: str) -> Efficiency:
    return EFFICIENCY.get(kernels(engine, scheme), UNKNOWN)


def _rate(scheme: str, hardware: Hardware, efficiency: Efficiency) -> float:
    """Operations/s in the number type that this scheme is multiplied in, f32 where the machine or engine lacks it."""
    kind = ARITHMETIC.get(scheme, "f32")
    if kind not in hardware.arithmetic_rate or kind not in efficiency.arithmetic:
        kind = "f32"
    return hardware.arithmetic_rate[kind] * efficiency.arithmetic[kind]
