"""OpenVINO GenAI: reads GGUF, batches continuously, caches prefixes. The default engine on CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.engines.speculation import SPECULATION_PRESETS, Speculating
from pennyweight.errors import EngineRefused
from pennyweight.hardware import Efficiency, Hardware

KV_CACHE_DTYPES = ("auto", "u8", "f16", "bf16", "f32")
FEW_STREAMS = 4  # up to this many, memory bandwidth is the limit and float32 costs nothing (1.2x faster at 1)
SUPERBLOCK = 256  # weights of one K-quant block
PRECISIONS = ("auto", "f32", "bf16", "f16")


@dataclass(frozen=True)
class OpenVINO(Speculating):
    """`max_num_batched_tokens` bounds the tokens of one step, so long prompts are processed in chunks. With 512
    everybody waits over 2 s beside a crowd of them; 256 makes a long prompt 3% slower (docs/log).

    `dynamic_quantization_group_size`: how many activations share a scale when float32 activations are rounded to
    8 bits for multiplication with quantized weights; 0: no rounding; -1: OpenVINO's default.
    """

    max_num_batched_tokens: int = 256
    enable_prefix_caching: bool = False
    kv_cache_dtype: str = "auto"
    inference_precision: str = "auto"
    dynamic_quantization_group_size: int = -1

    name: ClassVar[str] = "openvino"
    runtime: ClassVar[str] = "pennyweight.engines.openvino.runtime:OpenVINORuntime"
    packages: ClassVar[tuple[str, ...]] = ("openvino_genai", "openvino")
    model_format: ClassVar[str] = "gguf"
    efficiency: ClassVar[Mapping[str, Efficiency]] = {
        "": Efficiency(0.55, {"f32": 0.5, "bf16": 0.40, "int8": 0.40}, layer_seconds=0.00015)
    }
    colour: ClassVar[str] = "#2a78d6"
    schemes: ClassVar[tuple[str, ...]] = ("F16", "Q8_0", "Q4_K_M", "Q4_0")
    conforms: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "prefix caching": {"enable_prefix_caching": True},
        "bf16 cache": {"kv_cache_dtype": "bf16"},
        "float32 arithmetic": {"inference_precision": "f32"},
        "small steps": {"max_num_batched_tokens": 64},
        **SPECULATION_PRESETS,
    }
    tested: ClassVar[tuple[str, str]] = ("2026.4", "2027")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "kv_cache_dtype": KV_CACHE_DTYPES,
        "inference_precision": PRECISIONS,
    }
    forms: ClassVar[tuple[str, ...]] = ("json_schema", "choice")
    answer_fields: ClassVar[tuple[str, ...]] = (
        *Speculating.answer_fields,
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "min_tokens",
    )
    embeds: ClassVar[bool] = True
    max_top_logprobs: ClassVar[int] = 0  # the pipeline reports only the sampled token's log-probability

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_num_batched_tokens < 16:
            raise EngineRefused(
                f"openvino: max_num_batched_tokens={self.max_num_batched_tokens} is too few: use 16 or more."
            )
        if self.dynamic_quantization_group_size < -1:
            raise EngineRefused(
                f"openvino: dynamic_quantization_group_size={self.dynamic_quantization_group_size} is no size: use -1 "
                "(as OpenVINO likes), 0 (activations stay as they are), or a number of activations."
            )

    @classmethod
    def refuse_early(cls, config: Mapping[str, Any], scheme: str) -> None:
        super().refuse_early(config, scheme)
        widths = [config.get(name) or SUPERBLOCK for name in ("hidden_size", "intermediate_size")]
        if scheme == "Q4_K_M" and any(width % SUPERBLOCK for width in widths):
            raise EngineRefused(
                f"openvino cannot read Q4_K_M of widths {widths}: widths that are no multiple of {SUPERBLOCK} use "
                "Q5_0, which it does not support; use Q8_0 or Q4_0."
            )

    @classmethod
    def refuse_files(cls, directory: Path) -> None:
        """GGUF files of SentencePiece-like tokenizers hold no merges, and the pipeline ends with `map::at` on them."""
        file = directory / "tokenizer.json"
        if file.exists() and '"ByteFallback"' in file.read_text(encoding="utf-8"):
            raise EngineRefused(
                "openvino loads GGUF files with byte-level tokenizers only, and this model's tokenizer falls back to "
                "bytes as SentencePiece does: use onnxruntime, llamacpp or transformers."
            )

    def search_settings(self, hardware: Hardware, streams: int, longest: int) -> Mapping[str, tuple[Any, ...]]:
        del longest
        has_bfloat16 = "avx512_bf16" in hardware.flags or "amx_bf16" in hardware.flags
        choices: dict[str, tuple[Any, ...]] = {
            "kv_cache_dtype": ("auto", "bf16") if has_bfloat16 else ("auto",),  # elsewhere it does not load
            "enable_prefix_caching": (False, True),
        }
        if has_bfloat16 and streams <= FEW_STREAMS:
            choices["inference_precision"] = ("auto", "f32")  # auto is bf16 there
        return choices
