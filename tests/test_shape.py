"""Sizes of a decoder as its config.json gives them, held against transformers' own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight.errors import ModelError
from pennyweight.shape import ModelShape

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def test_defaults_as_transformers_has_them() -> None:
    shape = ModelShape.of(LLAMA)
    assert (shape.num_key_value_heads, shape.head_width, shape.tied, shape.experts) == (4, 16, False, 0)


def test_parameters_are_those_of_the_checkpoint(tiny_checkpoint: Path) -> None:
    from safetensors import safe_open

    config = json.loads((tiny_checkpoint / "config.json").read_text())
    with safe_open(tiny_checkpoint / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    matrices = sum(rows * columns for rows, columns in (shape for shape in shapes if len(shape) == 2))
    assert ModelShape.of(config).parameters == matrices


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"])
def test_a_size_that_is_missing_is_named(name: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != name}
    with pytest.raises(ModelError, match=name):
        ModelShape.of(config)


def test_gemma3_has_a_global_layer_at_every_sixth_place() -> None:
    shape = ModelShape.of({**LLAMA, "model_type": "gemma3_text", "num_hidden_layers": 12})
    assert [place for place, kind in enumerate(shape.layer_types) if kind == "full_attention"] == [5, 11]


DEEPSEEK: dict[str, Any] = {  # as deepseek-ai/DeepSeek-R1's config.json has it
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 129280,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}


def test_latent_attention_and_dense_layers_are_counted() -> None:
    """671 billion parameters, 37 of them used, as its model card says."""
    shape = ModelShape.of(DEEPSEEK)
    assert shape.parameters == pytest.approx(671e9, rel=0.01)
    assert shape.used_parameters == pytest.approx(37e9, rel=0.05)
    assert shape.cache_values_per_token == 61 * 576


def test_linear_attention_keeps_nothing_for_each_token() -> None:
    shape = ModelShape.of({**LLAMA, "num_hidden_layers": 8, "full_attention_interval": 4})
    assert (shape.layers_of("full_attention"), shape.layers_of("linear_attention")) == (2, 6)
    assert shape.cache_values_per_token == 2 * 2 * 64


MIXTURE = {
    **LLAMA,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 16,
}


def test_experts_are_held_all_and_read_as_streams_ask_for_them() -> None:
    shape = ModelShape.of(MIXTURE)
    one, rest = 3 * 64 * 32 * 2, ModelShape.of(MIXTURE | {"num_experts": 0}).parameters  # of 2 layers
    assert shape.read_parameters(4) - shape.read_parameters(1) == 6 * one
    assert shape.read_parameters(32) == shape.read_parameters(4)
    assert shape.used_parameters == shape.read_parameters(1)
    dense_layers = 2 * (3 * 64 * 128)
    assert shape.parameters == rest - dense_layers + 8 * one + 2 * (8 * 64 + 3 * 64 * 16)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["Mixtral", "Qwen2-MoE", "Qwen3-MoE"])
def test_mixtures_count_as_transformers_makes_them(case: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from pennyweight.conform.cases import CASES

    chosen = next(c for c in CASES if c.name == case)
    config = AutoConfig.for_model(chosen.model_type, **chosen.whole_config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1 and "shared_expert_gate" not in n)
    assert ModelShape.of(config.to_dict()).parameters == matrices
