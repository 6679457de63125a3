"""Tensor names of the decoders that techniques can change: Llama, Mistral, Qwen2, Qwen3 and Gemma-3 (text)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pennyweight.errors import ModelError
from pennyweight.shape import ModelShape

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
PARTS = {
    *(f"self_attn.{p}_proj.{kind}" for p in "qkvo" for kind in ("weight", "bias")),
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    *(f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")),
    *(f"{p}_layernorm.weight" for p in ("input", "post_attention", "pre_feedforward", "post_feedforward")),
}
OUTSIDE = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


def changeable(config: Mapping[str, Any]) -> ModelShape:
    """The model's shape. Refuses what these techniques cannot change so that stock engines still load it."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"The architecture {family!r} cannot be changed by this technique: it knows {', '.join(FAMILIES)}."
        )
    if config.get("quantization_config"):
        raise ModelError("The checkpoint is quantized already: give the full-precision one.")
    return ModelShape.of(config)


def check_tensors(names: Iterable[str]) -> None:
    """Refuse a checkpoint with tensors that no technique here would know how to treat."""
    for name in names:
        layer, part = split(name)
        if (part not in PARTS) if layer is not None else (part not in OUTSIDE):
            raise ModelError(f"The tensor {name} belongs to no layout known here ({', '.join(FAMILIES)}).")


def split(name: str) -> tuple[int | None, str]:
    """`model.layers.3.mlp.up_proj.weight` -> (3, "mlp.up_proj.weight"); (None, name) outside of the blocks."""
    matched = IN_LAYER.fullmatch(name)
    return (int(matched[1]), matched[2]) if matched else (None, name)


def join(layer: int, part: str) -> str:
    return f"model.layers.{layer}.{part}"
