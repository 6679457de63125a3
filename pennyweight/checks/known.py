"""Which models transformers knows, read from its source files: importing it takes seconds, and a refusal should not."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from pennyweight.errors import ModelError

DECODERS = "models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
GGUF = "integrations/ggml.py", "GGUF_CONFIG_MAPPING"
NOT_ARCHITECTURES = {"general", "tokenizer", "t5", "umt5"}  # keys of that table that are no decoder
RENAMED = ("qwen2moe", "qwen3moe", "gpt-oss", "minimax-m2")  # as transformers' loader of GGUF maps them
HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # endings of classes that give the next token
OTHER_HEADS = ("Model", "ForMaskedLM", "Classification", "ForQuestionAnswering", "ForMultipleChoice", "Prediction")


@cache
def decoders() -> frozenset[str]:
    """`model_type` values that transformers loads as decoders for text; empty where its source looks otherwise."""
    return _strings(*DECODERS)


@cache
def gguf_architectures() -> frozenset[str]:
    known = _strings(*GGUF)
    return known - NOT_ARCHITECTURES | set(RENAMED) if known else known


def check_known(directory: Path, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` for a config.json of what is no decoder, or quantized already."""
    model_type, named = str(config.get("model_type") or ""), config.get("architectures") or []
    classes = [named] if isinstance(named, str) else list(map(str, named))
    release = f"transformers {metadata.version('transformers')}"
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else quantized
        raise ModelError(
            f"{directory} is quantized already ({method or 'by an unnamed method'}): give the full-precision one that "
            "it was made from."
        )
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"{directory} is a {model_type} model of encoder and decoder: only decoders are served, so give one."
        )
    if classes and all(name.endswith(OTHER_HEADS) and not name.endswith(HEADS) for name in classes):
        raise ModelError(
            f"{directory} is a {classes[0]}, which gives no next token: give a checkpoint of a decoder with its head."
        )
    if decoders() and "text_config" in config and not has_language_part(config) and model_type not in decoders():
        raise ModelError(
            f"{directory} is a {model_type} model for more than text, and {release} loads its decoder only with the "
            "rest: give a model for text."
        )
    if decoders() and model_type not in decoders() and not has_language_part(config):
        raise ModelError(
            f"{directory} is a {model_type or 'nameless'} model, which {release} does not load as a decoder for text: "
            "give a model that it knows, or install a newer transformers."
        )


def check_known_gguf(file: Path, architecture: str) -> None:
    """Raise `ModelError` for a GGUF file that transformers could not turn into a checkpoint."""
    if gguf_architectures() and architecture not in gguf_architectures():
        raise ModelError(
            f"{file} is a {architecture or 'nameless'} model, which transformers {metadata.version('transformers')} "
            "cannot read from GGUF: give the directory of the original checkpoint."
        )


def has_language_part(config: Mapping[str, Any]) -> bool:
    """Does this multimodal model hold a decoder for text that is a model of its own?"""
    text = config.get("text_config")
    return isinstance(text, Mapping) and text.get("model_type") in decoders()


def _strings(file: str, name: str) -> frozenset[str]:
    """The keys of a table in the source of the installed transformers."""
    spec = util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    try:
        tree = ast.parse((Path(spec.submodule_search_locations[0]) / file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return frozenset()
    for node in tree.body:
        if isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == [name]:
            return frozenset(_keys(node.value))
    return frozenset()


def _keys(value: ast.expr) -> list[str]:
    """Of a dictionary, or of an OrderedDict made of a list of pairs."""
    if isinstance(value, ast.Dict):
        found: list[ast.expr | None] = list(value.keys)
    elif isinstance(value, ast.Call) and value.args and isinstance(value.args[0], ast.List):
        found = [pair.elts[0] for pair in value.args[0].elts if isinstance(pair, ast.Tuple) and pair.elts]
    else:
        return []
    return [node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)]
