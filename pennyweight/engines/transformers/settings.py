"""transformers: the reference engine. It serves the checkpoint unmodified, in the checkpoint's own precision.

It takes every decoder for text that transformers loads. Where keys and values of all positions are all that a model
keeps, requests share a batch (runtime.py); elsewhere each has a cache of its own (own_caches.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.engines.base import Runtime, named
from pennyweight.engines.batching.settings import RowEngine
from pennyweight.features import has_window, rope_kinds
from pennyweight.hardware import Efficiency

DEVICES = ("auto", "cpu", "cuda")
KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "float8_e4m3fn")
DTYPES = ("auto", "float32", "bfloat16", "float16")
# On the row loop these answer as transformers' own `generate`, alone and beside others: docs/conformance.md.
BATCHED = (
    *("llama", "mistral", "ministral3", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "phi", "phi3"),
    *("smollm3", "olmo2", "granite", "granitemoe", "deepseek_v2", "deepseek_v3", "glm", "glm4", "cohere", "starcoder2"),
    *("stablelm", "hunyuan_v1_dense", "ernie4_5", "seed_oss", "arcee", "gpt2", "gpt_neox", "apertus"),
)
BY_LENGTH = {"longrope", "su", "dynamic"}  # ropes that depend on how long the text is by now


@dataclass(frozen=True)
class Transformers(RowEngine):
    """`dtype` auto is the checkpoint's own, or float32 on a CPU without instructions for 16-bit floats; `device` auto
    is the GPU where there is one. A `kv_cache_dtype` smaller than `dtype` saves memory but is converted at every
    step."""

    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    device: str = "auto"

    name: ClassVar[str] = "transformers"
    runtime: ClassVar[str] = "pennyweight.engines.transformers.runtime:TransformersRuntime"
    separate: ClassVar[str] = "pennyweight.engines.transformers.own_caches:OwnCachesRuntime"
    packages: ClassVar[tuple[str, ...]] = ("transformers", "torch")
    model_format: ClassVar[str] = "huggingface"
    efficiency: ClassVar[Mapping[str, Efficiency]] = {
        "": Efficiency(0.5, {"f32": 0.5, "bf16": 0.25}, layer_seconds=0.00060)
    }
    colour: ClassVar[str] = "#1baf7a"
    schemes: ClassVar[tuple[str, ...]] = ("BF16", "F32", "F16")
    tested: ClassVar[tuple[str, str]] = ("5.20", "6")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "dtype": DTYPES,
        "device": DEVICES,
        "kv_cache_dtype": KV_CACHE_DTYPES,
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "8-bit cache": {"kv_cache_dtype": "float8_e4m3fn"},
        **RowEngine.presets,
    }
    max_top_logprobs: ClassVar[int] = 20
    draft_file: ClassVar[str] = "config.json"

    def load(self, directory: Path) -> Runtime:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        loaded: Runtime = named(self.runtime if shares_a_batch(config) else self.separate)(directory, self)
        return loaded


def shares_a_batch(config: Mapping[str, Any]) -> bool:
    """Is the row loop right for a model with this config.json? Its mask is made for full attention in all layers, and
    every row must place a token alike, whatever the length of the others."""
    batched = config.get("model_type") in BATCHED
    return batched and not has_window(config) and not rope_kinds(config) & BY_LENGTH
