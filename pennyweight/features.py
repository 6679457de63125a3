"""What a config.json asks of an engine beside its `model_type`: each is something that some engine reads past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pennyweight.shape import TIED_BY_DEFAULT

ORDINARY_ACTIVATIONS = ("silu", "swish")
WIDTH_STEP = 16  # attention kernels take heads whose width is a multiple of this


def features(config: Mapping[str, Any]) -> frozenset[str]:
    """Short names; the empty set for the plainest decoder of its type."""
    model_type = str(config.get("model_type") or "")
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
    shared = int(config.get("num_key_value_heads") or heads)
    hidden = int(config.get("hidden_size") or config.get("n_embd") or 0)
    width = int(config.get("head_dim") or hidden // heads)
    activation = str(config.get("hidden_act") or config.get("hidden_activation") or "silu")
    found = {
        "grouped heads": 1 < shared < heads,
        "one key-value head": shared == 1 < heads,
        "tied head": bool(config.get("tie_word_embeddings", model_type in TIED_BY_DEFAULT)),
        "partial rotary": _partial(config),
        "window": has_window(config),
        "attention bias": bool(config.get("attention_bias") or config.get("use_qkv_bias")),
        "MLP bias": bool(config.get("mlp_bias")),
        "heads wider than the hidden size": width * heads > hidden,
        "odd head width": width % WIDTH_STEP != 0,
        f"activation {activation}": activation not in ORDINARY_ACTIVATIONS,
        "soft caps": bool(config.get("attn_logit_softcapping") or config.get("final_logit_softcapping")),
        "attention scale": int(config.get("query_pre_attn_scalar") or width) != width,
        "experts not normalised": config.get("norm_topk_prob") is False,
        **{f"{kind} rope": True for kind in rope_kinds(config) if kind != "default"},
    }
    return frozenset(name for name, there in found.items() if there)


def has_window(config: Mapping[str, Any]) -> bool:
    """Does any layer attend to anything but all positions? A window as long as the context never acts."""
    if config.get("layer_types"):
        return any(kind != "full_attention" for kind in config["layer_types"])
    window = int(config.get("sliding_window") or 0)
    return bool(config.get("use_sliding_window", True)) and 0 < window < (
        config.get("max_position_embeddings") or 2**62
    )


def rope_kinds(config: Mapping[str, Any]) -> frozenset[str]:
    """Of all layers; newer configs may give one for each type of layer."""
    found = set()
    for rope in _ropes(config):
        found.add(str(rope.get("rope_type") or rope.get("type") or "default"))
    return frozenset(found or {"default"})


def _ropes(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = [config.get("rope_parameters") or {}, config.get("rope_scaling") or {}]
    inside = [value for rope in given for value in rope.values() if isinstance(value, dict)]
    return [*[rope for rope in given if rope and not any(isinstance(v, dict) for v in rope.values())], *inside]


def _partial(config: Mapping[str, Any]) -> bool:
    shares = [config.get("partial_rotary_factor"), *(rope.get("partial_rotary_factor") for rope in _ropes(config))]
    return any(share not in (None, 1, 1.0) for share in shares)
