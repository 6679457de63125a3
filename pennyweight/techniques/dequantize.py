"""A GGUF file becomes a Hugging Face directory that every tool can work on, through transformers.

What was lost when the file was quantized stays lost: the lineage says so, and every loss that is measured later is
relative to these weights. They are kept in bfloat16, the usual type of checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.errors import ModelError
from pennyweight.model import Model
from pennyweight.techniques.base import Technique


@dataclass(frozen=True)
class Dequantize(Technique):
    name: ClassVar[str] = "dequantize"
    packages: ClassVar[tuple[str, ...]] = ("transformers", "gguf")

    def settings(self) -> dict[str, Any]:
        return {"dtype": "bfloat16"}

    def result_kind(self, model: Model) -> tuple[str, str]:
        if model.format != "gguf" or not model.path.is_file():
            raise ModelError(f"{model.path} is not a .gguf file: there is nothing to de-quantize.")
        return "huggingface", "BF16"

    def build(self, source: Path, target: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise ModelError(
                f"transformers cannot read {source.name} ({error}): give the original checkpoint's directory."
            ) from None
        model.hf_quantizer = None  # else transformers refuses to save: the weights are plain by now
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config.architectures = [type(model).__name__]
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
