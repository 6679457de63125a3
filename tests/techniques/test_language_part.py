"""The decoder inside a multimodal checkpoint answers as the whole does to text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight.conform.cases import SIZES
from pennyweight.conform.tiny import tokenizer
from pennyweight.errors import ModelError, PennyweightError
from pennyweight.inputs import open_model
from pennyweight.model import Lineage, Model
from pennyweight.techniques.language_part import LanguagePart, placed
from pennyweight.tokenizer import Tokenizer

EYES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = {**EYES, "image_size": 28, "patch_size": 14}
WINDOW = {"sliding_window": 24, "query_pre_attn_scalar": 16}
MODELS: dict[str, dict[str, Any]] = {
    "llava": {
        "text": {"model_type": "llama", "tie_word_embeddings": False},
        "vision": {"model_type": "clip_vision_model"},
    },
    "gemma3": {"text": {"model_type": "gemma3_text", **WINDOW}, "vision": {"model_type": "siglip_vision_model"}},
    "mistral3": {"text": {"model_type": "mistral"}, "vision": {"model_type": "pixtral", "head_dim": 16}},
    "idefics3": {"text": {"model_type": "llama"}, "vision": {}},
}


def whole_model(kind: str, directory: Path) -> Any:
    """A tiny random multimodal model, saved."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    parts = MODELS[kind]
    sizes = {"text_config": {**SIZES, **parts["text"]}, "vision_config": {**PICTURES, **parts["vision"]}}
    whole = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **sizes)).float().eval()
    whole.save_pretrained(tokenizer(directory))
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_text_gets_the_same_answer(kind: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    whole = whole_model(kind, tmp_path / "model")
    (tmp_path / "model" / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    made = open_model(str(tmp_path / "model"))
    assert made.config["model_type"] == MODELS[kind]["text"]["model_type"]
    assert made.config["architectures"][0].endswith("ForCausalLM")  # converters look for it
    assert [step.technique for step in made.lineage.steps] == ["language_part"]
    assert Tokenizer(made.path).has_template
    tokens = torch.randint(3, 400, (1, 40), generator=torch.Generator().manual_seed(0))
    decoder = AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32).eval()
    with torch.inference_mode():
        assert torch.allclose(decoder(tokens).logits, whole(input_ids=tokens).logits, atol=1e-5)


@pytest.mark.slow
def test_a_head_that_was_lost_is_not_tied_instead(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole_model("llava", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if "lm_head" in name]:
        del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(PennyweightError, match=r"lacks its head, lm_head\.weight"):
        open_model(str(tmp_path / "model"))


def test_a_part_that_scales_logits_where_the_whole_does_not_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "llava", "text_config": {"model_type": "granite", "logits_scaling": 8.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="logits_scaling"):
        LanguagePart().result_kind(Model(tmp_path, "huggingface", "F32", Lineage("x", {})))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("model.text_model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("vision_tower.encoder.layers.0.mlp.fc1.weight", ""),
        ("model.multi_modal_projector.linear_1.weight", ""),
    ],
)
def test_each_tensor_has_its_place(name: str, place: str) -> None:
    assert placed(name) == place
