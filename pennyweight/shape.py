"""ModelShape: the numbers of a decoder, read from its config.json once, for all who need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pennyweight.errors import ModelError

TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3_text")
OLDER_NAMES = {  # as GPT-2 and its kin have them
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_k", "num_experts_per_token")
# Older configs name only the length of the pattern of windows, or not even that.
PATTERNS = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}


FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"


@dataclass(frozen=True)
class LatentAttention:
    """Sizes of multi-head latent attention (DeepSeek-V2, arxiv.org/abs/2405.04434): of every token `rank` +
    `rope_width` numbers are kept; `query_rank` is 0 where queries are not compressed."""

    rank: int
    query_rank: int
    rope_width: int
    plain_width: int
    value_width: int

    @property
    def kept(self) -> int:
        return self.rank + self.rope_width

    def parameters(self, hidden: int, heads: int) -> int:
        query = heads * (self.plain_width + self.rope_width)
        queries = hidden * self.query_rank + self.query_rank * query if self.query_rank else hidden * query
        keys = hidden * self.kept + self.rank * heads * (self.plain_width + self.value_width)
        return queries + keys + heads * self.value_width * hidden


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one decoder: `num_key_value_heads` are each shared by `heads / num_key_value_heads` query heads of
    `head_width` channels; `layer_types` is empty where all layers are alike; `experts` is 0 for a dense model, and each
    has `expert_size` neurons beside the `shared_expert_size` that every token passes; the first `dense_layers` blocks
    have none."""

    model_type: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    num_key_value_heads: int
    head_width: int
    vocabulary: int
    tied: bool = False
    layer_types: tuple[str, ...] = ()
    sliding_window: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    shared_expert_size: int = 0
    dense_layers: int = 0
    latent: LatentAttention | None = None

    @staticmethod
    def of(config: Mapping[str, Any]) -> ModelShape:
        """Names as transformers has them. Raises `ModelError` for a config that lacks one of the sizes."""
        model_type = str(config.get("model_type") or "")
        config = {**{name: config[old] for name, old in OLDER_NAMES.items() if config.get(old)}, **config}
        if "n_inner" in config:
            config = {"intermediate_size": 4 * int(config.get("hidden_size") or 0), **config}
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            layers, vocabulary = int(config["num_hidden_layers"]), int(config["vocab_size"])
            intermediate = int(config["intermediate_size"])
        except (KeyError, TypeError, ValueError) as error:
            missing = str(error).strip("'")
            raise ModelError(
                f"config.json of this {model_type or 'unnamed'} model gives no single {missing}, and nothing can be "
                "predicted without: take the config of the original model, or another model."
            ) from None
        sizes = {
            "num_attention_heads": heads,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "vocab_size": vocabulary,
            "intermediate_size": intermediate,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ModelError(f"config.json gives {name} = {value}, and no model is that small: correct it.")
        return ModelShape(
            model_type,
            layers,
            hidden,
            intermediate,
            heads,
            int(config.get("num_key_value_heads") or heads),
            int(config.get("head_dim") or hidden // heads),
            vocabulary,
            bool(config.get("tie_word_embeddings", model_type in TIED_BY_DEFAULT)),
            _layer_types(config, model_type, layers),
            int(config.get("sliding_window") or 0) if config.get("use_sliding_window", True) else 0,
            next((int(config[name]) for name in EXPERT_COUNTS if config.get(name)), 0),
            max((_largest(config[name]) for name in EXPERTS_PER_TOKEN if config.get(name)), default=0),
            int(config.get("moe_intermediate_size") or intermediate),
            _shared_experts(config),
            int(config.get("first_k_dense_replace") or 0),
            _latent(config),
        )

    @property
    def layer_parameters(self) -> int:
        """Of one block's matrices, with all of its experts."""
        return self._layer_parameters(self.experts)

    def _layer_parameters(self, experts: int) -> int:
        attention = self.attention_parameters
        if not self.experts:
            return attention + 3 * self.hidden_size * self.intermediate_size
        router = self.experts * self.hidden_size
        return attention + router + 3 * self.hidden_size * (experts * self.expert_size + self.shared_expert_size)

    @property
    def attention_parameters(self) -> int:
        """Of one block. Linear attention is counted as if it had the same queries, keys and values."""
        if self.latent is not None:
            return self.latent.parameters(self.hidden_size, self.heads)
        return 2 * self.hidden_size * self.head_width * (self.heads + self.num_key_value_heads)

    @property
    def expert_parameters(self) -> int:
        """Of all routed experts of all blocks."""
        blocks = self.layers - self.dense_layers if self.experts else 0
        return blocks * 3 * self.hidden_size * self.experts * self.expert_size

    def layers_of(self, kind: str) -> int:
        """Blocks whose attention is `FULL`, `SLIDING` or `LINEAR`."""
        if self.layer_types:
            return sum(one == kind for one in self.layer_types)
        if kind == SLIDING:
            return self.layers if self.sliding_window else 0
        return self.layers if kind == FULL and not self.sliding_window else 0

    @property
    def parameters(self) -> int:
        """All matrices; a tied embedding counts once."""
        dense = self.dense_layers * (3 * self.hidden_size * self.intermediate_size + self.attention_parameters)
        blocks = (self.layers - self.dense_layers) * self.layer_parameters + dense
        return blocks + (1 if self.tied else 2) * self.vocabulary * self.hidden_size

    @property
    def used_parameters(self) -> int:
        """Those that one token is multiplied with: an untied embedding is only looked up, and of the experts it goes to
        a few."""
        return self.read_parameters(1)

    def read_parameters(self, streams: int) -> int:
        """Those that a decoding step of this many streams reads, each through experts of its own."""
        experts = min(self.experts, streams * max(1, self.experts_per_token))
        return self.layers * self._layer_parameters(experts) + self.vocabulary * self.hidden_size

    @property
    def cache_values_per_token(self) -> int:
        """Numbers kept of every token: keys and values of all layers."""
        return (self.layers - self.layers_of(LINEAR)) * self.cache_width

    @property
    def cache_width(self) -> int:
        """Numbers that one block keeps of a token."""
        return self.latent.kept if self.latent is not None else 2 * self.num_key_value_heads * self.head_width

    @property
    def lasting_layers(self) -> int:
        """Blocks that keep keys and values as long as the context is: where others do, those that slide do not."""
        return self.layers_of(FULL) or self.layers - self.layers_of(LINEAR)


def _largest(value: Any) -> int:
    """Of a number, or of one for each block."""
    return max(map(int, value)) if isinstance(value, list) else int(value)


def _latent(config: Mapping[str, Any]) -> LatentAttention | None:
    if not config.get("kv_lora_rank"):
        return None
    names = ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    return LatentAttention(*(int(config.get(name) or 0) for name in names))


def _shared_experts(config: Mapping[str, Any]) -> int:
    shared = config.get("n_shared_experts") or config.get("num_shared_experts") or 0
    return int(
        config.get("shared_expert_intermediate_size") or int(shared) * int(config.get("moe_intermediate_size") or 0)
    )


def _layer_types(config: Mapping[str, Any], model_type: str, layers: int) -> tuple[str, ...]:
    if config.get("layer_types"):
        return tuple(config["layer_types"])
    if every := int(config.get("full_attention_interval") or 0):  # all others keep one state, and no keys and values
        return tuple(FULL if (layer + 1) % every == 0 else LINEAR for layer in range(layers))
    if model_type not in PATTERNS:
        return ()
    every = config.get("sliding_window_pattern") or PATTERNS[model_type]  # the last of these layers attends globally
    return tuple(FULL if (layer + 1) % every == 0 else SLIDING for layer in range(layers))
