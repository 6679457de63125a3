"""A GGUF file becomes a Hugging Face directory that every tool can work on, through transformers, and with what
transformers reads past (gguf_config.py, gguf_tokenizer.py).

What was lost when the file was quantized stays lost: the lineage says so, and every loss that is measured later is
relative to these weights. They are kept in bfloat16, the usual type of checkpoints.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.checks.finite import check_finite
from pennyweight.checks.gguf_file import check_gguf, read_gguf_header
from pennyweight.checks.safetensors_files import weight_files
from pennyweight.errors import ModelError
from pennyweight.model import Model
from pennyweight.techniques.base import Technique
from pennyweight.techniques.gguf_copy import copy_metadata, finish

MEND = "give the directory of the original checkpoint"


@dataclass(frozen=True)
class Dequantize(Technique):
    name: ClassVar[str] = "dequantize"
    packages: ClassVar[tuple[str, ...]] = ("transformers", "gguf")
    revision: ClassVar[int] = 2

    def settings(self) -> dict[str, Any]:
        return {"dtype": "bfloat16"}

    def result_kind(self, model: Model) -> tuple[str, str]:
        if model.format != "gguf" or not model.path.is_file():
            raise ModelError(f"{model.path} is not a .gguf file: there is nothing to de-quantize.")
        return "huggingface", "BF16"

    def build(self, source: Path, target: Path) -> None:
        parts = check_gguf(source)
        with tempfile.TemporaryDirectory(prefix="pennyweight-gguf-") as folder:
            whole = source if len(parts) == 1 else joined(parts, Path(folder) / "whole.gguf")
            _convert(whole, source.name, target)
        for file in weight_files(target):
            check_finite(file)


def _convert(file: Path, name: str, target: Path) -> None:
    import gguf
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from pennyweight.techniques.gguf_config import ROPE_FACTORS, amend, end_tokens

    header, reader = read_gguf_header(file), gguf.GGUFReader(file)
    factors = next((tensor.data.tolist() for tensor in reader.tensors if tensor.name == ROPE_FACTORS), None)
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        amend(config, header, factors)
        _save_tokenizer(file, reader, target)
        model, found = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=torch.bfloat16, output_loading_info=True
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"transformers cannot read {name} ({error}): {MEND}.") from None
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(f"{name} lacks {', '.join(missing[:3])}, which a {type(model).__name__} needs: {MEND}.")
    model.hf_quantizer = None  # else transformers refuses to save: the weights are plain by now
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    ends = end_tokens(header.metadata)
    if ends:
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.save_pretrained(target)


def _save_tokenizer(file: Path, reader: Any, target: Path) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from pennyweight.techniques.gguf_tokenizer import is_sentencepiece, sentencepiece

    if is_sentencepiece(reader):
        backend, names = sentencepiece(reader)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
        template = reader.fields.get("tokenizer.chat_template")
        tokenizer.chat_template = None if template is None else str(template.contents())
    else:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(target)


def joined(parts: list[Path], target: Path) -> Path:
    """The parts of a split file as one file, tensors as they are."""
    import gguf

    readers = [gguf.GGUFReader(part) for part in parts]
    writer = gguf.GGUFWriter(target, readers[0].fields["general.architecture"].contents())
    copy_metadata(readers[0], writer, without=("split.",))
    for reader in readers:
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    finish(writer)
    return target
