"""For tests: a small catalogue, two models, and a predictor that was fitted on made-up runs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from pennyweight.cluster import Fact, MachineType
from pennyweight.plan.placement import Placement
from pennyweight.plan.prediction import Case, Known, Predictor, fitted
from pennyweight.plan.prices import Load
from pennyweight.plan.residual import Kernel
from pennyweight.shape import ModelShape

DENSE: dict[str, Any] = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
MIXTURE = {**DENSE, "num_experts": 64, "num_experts_per_tok": 4, "moe_intermediate_size": 2048}
LLAMA, EXPERTS = ModelShape.of(DENSE), ModelShape.of(MIXTURE)
KERNEL = Kernel((0.1,) * 7, (0.1,) * 7, (2.0,) * 6, 0.05)


def fact(value: float) -> Fact:
    return Fact(value, "made up", "2026-11")


def machine(name: str = "Big", *, devices: int = 8, memory: float = 80e9, price: float | None = 20.0) -> MachineType:
    return MachineType(
        name,
        "nobody",
        "gpu",
        devices,
        fact(memory),
        fact(3e12),
        {"bf16": fact(1e15), "fp8": fact(2e15)},
        fact(400e9),
        fact(50e9),
        None if price is None else fact(price),
        ("vllm",),
    )


BIG, SMALL = machine(), machine("Small", devices=1, memory=24e9, price=1.0)


def run(load: Load, placement: Placement, factor: float, shape: ModelShape = LLAMA) -> Known:
    """As an engine that reads weights at half the bandwidth and needs 30 µs a layer."""
    weights = (shape.parameters * placement.weight_bytes) / placement.devices / 3e12
    token = factor * (2 * weights + shape.layers * 30e-6 + load.concurrency * 1e-5)
    first = factor * (0.02 + load.prompt_tokens * load.concurrency**0.5 * 2e-5)
    return Known(Case(shape, placement, load), token, first)


@cache
def predictor(noise: float = 0.02) -> Predictor:
    draw = np.random.default_rng(0)
    runs = [
        run(Load(prompt, answer, size), Placement(BIG, "vllm", precision, tensor=tensor), float(np.exp(noise * n)))
        for prompt in (128, 1024, 4096)
        for answer in (128, 1024)
        for size in (1, 4, 16, 64, 256)
        for precision in ("bf16", "fp8")
        for tensor, n in zip((1, 2, 4), draw.normal(size=3), strict=True)
    ]
    return fitted(runs, (KERNEL, KERNEL), support=120, about="made-up runs")
