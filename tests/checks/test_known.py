"""What transformers' source says it loads, and the refusals that a config.json decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pennyweight.checks.known import check_known, check_known_gguf, decoders, gguf_architectures, has_language_part
from pennyweight.errors import ModelError

LLAMA: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.mark.slow
def test_the_source_says_what_the_library_does() -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert decoders() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert gguf_architectures() >= set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer", "t5", "umt5"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"architectures": None},
        {"architectures": ["GPT2LMHeadModel"]},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": ["MyLlama"]},
    ],
)
def test_decoders_pass(more: dict[str, Any]) -> None:
    check_known(Path("m"), LLAMA | more)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"model_type": "foo", "architectures": ["FooForCausalLM"]}, "a foo model, which transformers"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM, which gives no next token"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "gives no next token"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder and decoder"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized already \(gptq\)"),
        ({"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text"}, "architectures": []}, "qwen2_vl"),
    ],
)
def test_what_is_no_decoder_is_refused(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        check_known(Path("m"), LLAMA | more)


def test_a_multimodal_model_with_a_decoder_of_its_own_passes() -> None:
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": LLAMA}
    assert has_language_part(config) and not has_language_part(LLAMA)
    check_known(Path("m"), config)


def test_gguf_architectures_are_known_by_their_own_names() -> None:
    for name in ("llama", "qwen3moe", "gpt-oss", "gemma3"):
        check_known_gguf(Path("m.gguf"), name)
    with pytest.raises(ModelError, match="clip model"):
        check_known_gguf(Path("m.gguf"), "clip")
