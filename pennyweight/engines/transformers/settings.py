"""transformers: the reference engine. It serves the checkpoint unmodified, in the checkpoint's own precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pennyweight.engines.batching.settings import RowEngine
from pennyweight.hardware import Efficiency

DEVICES = ("auto", "cpu", "cuda")
KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "float8_e4m3fn")
DTYPES = ("auto", "float32", "bfloat16", "float16")


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
    packages: ClassVar[tuple[str, ...]] = ("transformers", "torch")
    model_format: ClassVar[str] = "huggingface"
    efficiency: ClassVar[Mapping[str, Efficiency]] = {
        "": Efficiency(0.5, {"f32": 0.5, "bf16": 0.25}, layer_seconds=0.00060)
    }
    colour: ClassVar[str] = "#1baf7a"
    schemes: ClassVar[tuple[str, ...]] = ("BF16", "F32", "F16")
    # full attention in every layer: the batch's mask is made for that
    architectures: ClassVar[tuple[str, ...]] = ("llama", "qwen2", "qwen3")
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
