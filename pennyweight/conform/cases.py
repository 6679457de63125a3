"""The models that are tried: the architectures that people serve, and what their configs can ask for.

Each is a config of transformers with small sizes. Weights are random, and wide enough that a wrong position or a
forgotten bias changes the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

VOCABULARY = 480  # of the tokenizer that all share
CONTEXT = 512
WINDOW = 24  # shorter than the long prompt
SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


@dataclass(frozen=True)
class Case:
    """`shows` is what it has beside its architecture; `config` overrides `SIZES` and may drop a key with None."""

    name: str
    model_type: str
    shows: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    embedding_spread: float = 3.0  # times the other weights'; less where a tied head would only repeat the last token

    @property
    def whole_config(self) -> dict[str, Any]:
        return {k: v for k, v in {**SIZES, **self.config}.items() if v is not None}

    @property
    def saved_config(self) -> dict[str, Any]:
        """The config.json of the model: with all that the architecture has by default."""
        from transformers import AutoConfig

        return dict(AutoConfig.for_model(self.model_type, **self.whole_config).to_dict())


WIDTHS = (  # what grows with the heads
    "hidden_size",
    "head_dim",
    "n_embd",
    "qk_rope_head_dim",
    "qk_nope_head_dim",
    "v_head_dim",
    "query_pre_attn_scalar",
    "mamba_d_ssm",
    "mamba_d_head",
)


def with_wider_heads(case: Case) -> Case:
    """The same with everything that grows with the heads twice as wide, for engines that have no kernels for narrow
    heads."""
    whole = case.whole_config
    wider: dict[str, Any] = {name: whole[name] * 2 for name in WIDTHS if name in whole}
    if whole.get("head_dim", 0) % 16:
        wider["head_dim"] = whole["head_dim"] + 16  # still odd
    rope = whole.get("rope_parameters")
    if rope:
        factors = {
            name: [value for value in rope[name] for _ in (0, 1)]
            for name in rope
            if name.endswith("_factor") and isinstance(rope[name], list)
        }
        wider["rope_parameters"] = {**rope, **factors}
    return replace(case, config={**case.config, **wider})


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


LLAMA3 = _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
LINEAR = _rope("linear", factor=4.0)
YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=128)
DYNAMIC = {**_rope("dynamic", factor=4.0), "max_position_embeddings": 64}  # it begins beyond these
LONG = _rope(
    "longrope",
    short_factor=[1.0] * 8,
    long_factor=[2.0 + n for n in range(8)],
    factor=4.0,
    original_max_position_embeddings=64,
)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
WIDE = {"head_dim": 32}  # 4 heads of these are wider than the hidden size
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": WINDOW}

LATENT = {  # DeepSeek's attention and experts
    "head_dim": None,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}

CASES: tuple[Case, ...] = (
    Case("Llama 2", "llama", config={"num_key_value_heads": 4}),
    Case("Llama, grouped heads", "llama", "grouped heads"),
    Case("Llama, one key-value head", "llama", "one key-value head", {"num_key_value_heads": 1}),
    Case("Llama, tied", "llama", "tied", {"tie_word_embeddings": True}),
    Case("Llama 3.1", "llama", "llama3 rope", LLAMA3),
    Case("Llama, linear rope", "llama", "linear rope", LINEAR),
    Case("Llama, yarn", "llama", "yarn", YARN),
    Case("Llama, dynamic rope", "llama", "dynamic rope", DYNAMIC),
    Case("Llama, longrope", "llama", "longrope", LONG),
    Case("Llama, attention bias", "llama", "attention bias", {"attention_bias": True}),
    Case("Llama, MLP bias", "llama", "MLP bias", {"mlp_bias": True}),
    Case("Llama, wide heads", "llama", "heads wider than the hidden size", {"head_dim": 32}),
    Case("Llama, odd heads", "llama", "odd head width", {"head_dim": 24}),
    Case("Llama, another activation", "llama", "gelu", {"hidden_act": "gelu"}),
    Case("Mistral", "mistral", config={"sliding_window": None}),
    Case("Mistral, window", "mistral", "window", {"sliding_window": WINDOW}),
    Case("Mixtral", "mixtral", "experts", {**LOCAL_EXPERTS, "sliding_window": None}),
    Case("Qwen2", "qwen2"),
    Case("Qwen2, tied", "qwen2", "tied", {"tie_word_embeddings": True}),
    Case(
        "Qwen2, window",
        "qwen2",
        "window",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    Case("Qwen2, yarn", "qwen2", "yarn", YARN),
    Case("Qwen2-MoE", "qwen2_moe", "experts", {**EXPERTS, "shared_expert_intermediate_size": 48}),
    Case("Qwen3", "qwen3", "wide heads", WIDE),
    Case("Qwen3, tied", "qwen3", "tied", {"tie_word_embeddings": True}),
    Case(
        "Qwen3, window",
        "qwen3",
        "window",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    Case("Qwen3-MoE", "qwen3_moe", "experts, wide heads", {**EXPERTS, **WIDE, "norm_topk_prob": True}),
    Case(
        "Qwen3-Next",
        "qwen3_next",
        "linear attention, experts",
        {
            **EXPERTS,
            **WIDE,
            "shared_expert_intermediate_size": 48,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
    Case("Gemma", "gemma", config={"num_key_value_heads": 1, **WIDE}, embedding_spread=0.3),
    Case("Gemma 2", "gemma2", "window, soft caps", {"sliding_window": WINDOW, "query_pre_attn_scalar": 16}, 0.3),
    Case(
        "Gemma 3",
        "gemma3_text",
        "window",
        {"sliding_window": WINDOW, "query_pre_attn_scalar": 32, "num_hidden_layers": 6, **WIDE},
        0.3,
    ),
    Case("Phi-3", "phi3", config={"head_dim": None, "pad_token_id": 2}),
    Case("Phi-3, longrope", "phi3", "longrope", {**LONG, "head_dim": None, "original_max_position_embeddings": 64}),
    Case("Phi-4-mini", "phi3", "partial rotary", {"head_dim": None, "partial_rotary_factor": 0.5}),
    Case("Phi-2", "phi", "partial rotary, biases", {"head_dim": None, "partial_rotary_factor": 0.5}),
    Case("SmolLM3", "smollm3", "layers without rope", {"no_rope_layer_interval": 4, "use_sliding_window": False}),
    Case("OLMo-2", "olmo2"),
    Case("OLMo-3", "olmo3", "window", ALTERNATING),
    Case(
        "Granite",
        "granite",
        "multipliers",
        {"embedding_multiplier": 2.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    ),
    Case("Granite-MoE", "granitemoe", "experts", LOCAL_EXPERTS),
    Case("GPT-OSS", "gpt_oss", "window, sinks, experts", {**LOCAL_EXPERTS, **ALTERNATING, **WIDE}),
    Case("DeepSeek-V2", "deepseek_v2", "latent attention, experts", {**LATENT, "q_lora_rank": None}),
    Case("DeepSeek-V3", "deepseek_v3", "latent attention, experts", {**LATENT, "q_lora_rank": 32}),
    Case("GLM-4", "glm4", "partial rotary", {"partial_rotary_factor": 0.5}),
    Case("GLM", "glm", "partial rotary", {"partial_rotary_factor": 0.5}),
    Case("Cohere", "cohere", "logit scale", {"head_dim": None}),
    Case("Cohere-2", "cohere2", "window", ALTERNATING),
    Case("Ministral-3", "ministral3", config={"head_dim": 16}),
    Case("EXAONE-4", "exaone4", "window", {**ALTERNATING, "sliding_window_pattern": "LG"}),
    Case("StarCoder2", "starcoder2", "biases, layer norm", {"head_dim": None, "sliding_window": None}),
    Case("StableLM", "stablelm", "partial rotary, layer norm", {"head_dim": None}),
    Case("Hunyuan", "hunyuan_v1_dense"),
    Case("Ernie-4.5", "ernie4_5"),
    Case("Seed-OSS", "seed_oss", "wide heads, attention bias", {**WIDE, "attention_bias": True}),
    Case("ARCEE", "arcee", "squared relu"),
    Case("GPT-2", "gpt2", "learned positions", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}),
    Case("GPT-NeoX", "gpt_neox", "parallel residual", {"head_dim": None}),
    Case(
        "Falcon-H1",
        "falcon_h1",
        "state space",
        {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1},
    ),
    Case(
        "Mamba-2",
        "mamba2",
        "state space alone",
        {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "expand": 2},
    ),
    Case("LFM2", "lfm2", "short convolutions", {"layer_types": ["conv", "full_attention"] * 2, "block_ff_dim": 96}),
    Case(
        "Bamba",
        "bamba",
        "state space",
        {
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "attn_layer_indices": [1, 3],
        },
    ),
    Case("Apertus", "apertus", "xIELU"),
)
