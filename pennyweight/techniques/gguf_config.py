"""What a GGUF file says of its model and transformers' conversion does not read: rope scaling, biases, windows, and
all the tokens that end an answer. Read past, each of them makes another model of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pennyweight.checks.gguf_file import Header
from pennyweight.errors import ModelError

ROPE_FACTORS = "rope_freqs.weight"
# Llama 3.1 to 3.3 (llama.cpp's converter stores only the factors that follow from these).
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
CLOSE = 1e-3


def amend(config: Any, header: Header, factors: Sequence[float] | None) -> None:
    """Put into transformers' config what the header says. `factors` are the values of `rope_freqs.weight`, if the file
    has them. Raises `ModelError` for what has no place there."""
    theta = _theta(config)
    scaling = _scaling(header, theta, factors)
    if scaling is not None:
        config.rope_parameters = {"rope_theta": theta, **scaling}
        config.standardize_rope_params() if hasattr(config, "standardize_rope_params") else None
    names = header.tensors
    if "blk.0.attn_q.bias" in names and hasattr(config, "attention_bias"):
        config.attention_bias = True
    if "blk.0.ffn_up.bias" in names and hasattr(config, "mlp_bias"):
        config.mlp_bias = True
    window = header.of_architecture("attention.sliding_window")
    if window and hasattr(config, "sliding_window") and not config.sliding_window:
        config.sliding_window = int(window)


def end_tokens(metadata: Mapping[str, Any]) -> list[int]:
    found = (metadata.get(f"tokenizer.ggml.{name}") for name in ENDS)
    return sorted({int(token) for token in found if token is not None})


def _theta(config: Any) -> float:
    rope = getattr(config, "rope_parameters", None) or {}
    return float(rope.get("rope_theta") or getattr(config, "rope_theta", None) or 10000.0)


def _scaling(header: Header, theta: float, factors: Sequence[float] | None) -> dict[str, Any] | None:
    kind = str(header.of_architecture("rope.scaling.type") or "none")
    factor = header.of_architecture("rope.scaling.factor") or header.of_architecture("rope.scale_linear")
    original = header.of_architecture("rope.scaling.original_context_length")
    if factors is not None:
        return _llama3(theta, factors)
    if kind == "none":
        return {"rope_type": "linear", "factor": float(factor)} if factor and float(factor) != 1.0 else None
    if kind == "linear" and factor:
        return {"rope_type": "linear", "factor": float(factor)}
    if kind == "yarn" and factor and original:
        return {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": int(original)}
    raise ModelError(
        f"The GGUF file scales its positions by {kind!r}, which cannot be carried over: give the directory of "
        "the original checkpoint."
    )


def _llama3(theta: float, factors: Sequence[float]) -> dict[str, Any]:
    """The settings from which these factors follow (transformers, modeling_rope_utils, "llama3")."""
    found = {"rope_type": "llama3", "factor": float(max(factors)), **LLAMA3}
    wanted = llama3_factors(theta, len(factors), found)
    if any(abs(a - b) > CLOSE * b for a, b in zip(factors, wanted, strict=True)):
        raise ModelError(
            f"The GGUF file scales its positions by factors of its own ({ROPE_FACTORS}), not those of Llama 3: "
            "give the directory of the original checkpoint."
        )
    return found


def llama3_factors(theta: float, count: int, settings: Mapping[str, Any]) -> list[float]:
    """By how much each of the `count` frequencies of a head is divided."""
    original, factor = settings["original_max_position_embeddings"], settings["factor"]
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    found = []
    for place in range(count):
        wavelength = 2 * math.pi * theta ** (place / count)
        smooth = (original / wavelength - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth) if smooth else factor
        found.append(1.0 if smooth >= 1 else float(factor) if smooth <= 0 else between)
    return found
