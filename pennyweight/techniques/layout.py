"""What a decoder's tensors are called and how large they are: Llama, Mistral, Qwen2, Qwen3 and Gemma-3 (text)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pennyweight.errors import ModelError

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


@dataclass(frozen=True)
class Layout:
    """The sizes of one decoder. `groups` are the key-value heads, each shared by `heads / groups` query heads."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    groups: int
    head_width: int
    vocabulary: int
    tied: bool
    layer_types: tuple[str, ...] = ()

    @staticmethod
    def of(config: Mapping[str, Any]) -> Layout:
        """Refuses what these techniques cannot change so that stock engines still load it."""
        family = config.get("model_type")
        if family not in FAMILIES:
            raise ModelError(
                f"The architecture {family!r} cannot be changed by this technique: it knows {', '.join(FAMILIES)}."
            )
        if config.get("quantization_config"):
            raise ModelError("The checkpoint is quantized already: give the full-precision one.")
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        layers = config["num_hidden_layers"]
        return Layout(
            family,
            layers,
            hidden,
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or hidden // heads,
            config["vocab_size"],
            config.get("tie_word_embeddings", family in ("gemma3_text",)),
            _layer_types(config),
        )

    @property
    def layer_parameters(self) -> int:
        """Of one block, norms left out."""
        return 2 * self.hidden * self.head_width * (self.heads + self.groups) + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """All matrices; a tied embedding counts once."""
        return self.layers * self.layer_parameters + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def check(self, names: Iterable[str]) -> None:
        """Refuse a checkpoint with tensors that no technique here would know how to treat."""
        for name in names:
            layer, part = split(name)
            if (part not in PARTS) if layer is not None else (part not in OUTSIDE):
                raise ModelError(f"The tensor {name} belongs to no layout known here ({', '.join(FAMILIES)}).")


def _layer_types(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Older Gemma-3 configs name the pattern's length only: the last of every so many layers looks globally."""
    if config.get("layer_types") or config.get("model_type") != "gemma3_text":
        return tuple(config.get("layer_types") or ())
    every = config.get("sliding_window_pattern") or 6
    kinds = (
        "full_attention" if (layer + 1) % every == 0 else "sliding_attention"
        for layer in range(config["num_hidden_layers"])
    )
    return tuple(kinds)


def split(name: str) -> tuple[int | None, str]:
    """`model.layers.3.mlp.up_proj.weight` -> (3, "mlp.up_proj.weight"); (None, name) outside of the blocks."""
    matched = IN_LAYER.fullmatch(name)
    return (int(matched[1]), matched[2]) if matched else (None, name)


def join(layer: int, part: str) -> str:
    return f"model.layers.{layer}.{part}"
