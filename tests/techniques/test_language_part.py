"""The decoder inside a multimodal checkpoint answers as the whole does to text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pennyweight.conform.cases import SIZES
from pennyweight.conform.tiny import tokenizer
from pennyweight.inputs import open_model
from pennyweight.techniques.language_part import placed

EYES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = {**EYES, "image_size": 28, "patch_size": 14}
WINDOW = {"sliding_window": 24, "query_pre_attn_scalar": 16}
MODELS: dict[str, dict[str, Any]] = {
    "gemma3": {"text": {"model_type": "gemma3_text", **WINDOW}, "vision": {"model_type": "siglip_vision_model"}},
    "mistral3": {"text": {"model_type": "mistral"}, "vision": {"model_type": "pixtral", "head_dim": 16}},
    "idefics3": {"text": {"model_type": "llama"}, "vision": {}},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_text_gets_the_same_answer(kind: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    parts = MODELS[kind]
    sizes = {"text_config": {**SIZES, **parts["text"]}, "vision_config": {**PICTURES, **parts["vision"]}}
    whole = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **sizes)).float().eval()
    directory = tokenizer(tmp_path / "model")
    whole.save_pretrained(directory)
    made = open_model(str(directory))
    assert made.config["model_type"] == parts["text"]["model_type"]
    assert [step.technique for step in made.lineage.steps] == ["language_part"]
    tokens = torch.randint(3, 400, (1, 40), generator=torch.Generator().manual_seed(0))
    decoder = AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32).eval()
    with torch.inference_mode():
        assert torch.allclose(decoder(tokens).logits, whole(input_ids=tokens).logits, atol=1e-5)


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
