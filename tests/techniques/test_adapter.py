"""A merged adapter is W + scale * B A, and what could only be merged in part is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pennyweight import checkpoint, inputs
from pennyweight.errors import ModelError
from pennyweight.techniques.adapter import MergeAdapter

QUERY, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
NORM = "model.norm.weight"
RANK, ALPHA = 4, 8
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "owner/base"}


def half(module: str, which: str) -> str:
    return f"base_model.model.{module}.lora_{which}.weight"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """On one attention and one MLP matrix of the tiny checkpoint, and a norm that was trained whole."""
    torch.manual_seed(1)
    tensors = {
        half(QUERY, "A"): torch.randn(RANK, 64),
        half(QUERY, "B"): torch.randn(64, RANK),
        half(DOWN, "A"): torch.randn(RANK, 128),
        half(DOWN, "B"): torch.randn(64, RANK),
        f"base_model.model.{NORM}": torch.full((64,), 2.0),
    }
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG))
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def change(adapter: Path, tensors: Callable[[dict[str, Any]], dict[str, Any]] = lambda t: t, **config: Any) -> Path:
    file = adapter / "adapter_model.safetensors"
    save_file({name: value.clone() for name, value in tensors(load_file(file)).items()}, file)
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return adapter


def merged(adapter: Path, model: Path, target: Path) -> dict[str, torch.Tensor]:
    technique = MergeAdapter(str(adapter))
    technique.result_kind(checkpoint.open_model(str(model)))
    target.mkdir()
    technique.build(model, target)
    return load_file(target / "model.safetensors")


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (ALPHA / math.sqrt(RANK), ALPHA / math.sqrt(RANK))),
        ({"alpha_pattern": {"down_proj": 2}}, (2.0, 0.5)),
    ],
)
def test_weights_gain_the_scaled_product(
    config: dict[str, Any], scales: tuple[float, float], adapter: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before, parts = load_file(tiny_checkpoint / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    after = merged(change(adapter, **config), tiny_checkpoint, tmp_path / "out")
    for module, scale in zip((QUERY, DOWN), scales, strict=True):
        name = f"{module}.weight"
        wanted = before[name] + scale * parts[half(module, "B")] @ parts[half(module, "A")]
        assert torch.allclose(after[name], wanted, atol=1e-5)
    assert torch.equal(after[NORM], torch.full((64,), 2.0))
    others = before.keys() - {f"{QUERY}.weight", f"{DOWN}.weight", NORM}
    assert all(torch.equal(after[name], before[name]) for name in others)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another kind of adapter": (lambda a: change(a, peft_type="IA3"), "IA3"),
    "DoRA": (lambda a: change(a, use_dora=True), "use_dora"),
    "trained biases": (lambda a: change(a, bias="all"), "bias"),
    "half of a change": (lambda a: change(a, lambda t: {k: v for k, v in t.items() if k != half(DOWN, "B")}), "half"),
    "a module that the model lacks": (
        lambda a: change(a, lambda t: {k.replace("layers.1", "layers.7"): v for k, v in t.items()}),
        "layers.7",
    ),
    "another width": (lambda a: change(a, lambda t: t | {half(QUERY, "A"): torch.ones(RANK, 32)}), "owner/base"),
    "a tensor that cannot be placed": (
        lambda a: change(a, lambda t: t | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(2)}),
        "lora_embedding_A",
    ),
    "a replaced tensor of another shape": (
        lambda a: change(a, lambda t: t | {f"base_model.model.{NORM}": torch.ones(3)}),
        NORM,
    ),
    "a NaN": (lambda a: change(a, lambda t: t | {half(QUERY, "B"): torch.full((64, RANK), math.nan)}), "NaN"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_merged_whole_is_refused_by_name(fault: str, adapter: Path, tiny_checkpoint: Path) -> None:
    plant, named = REFUSED[fault]
    with pytest.raises(ModelError, match=named):
        MergeAdapter(str(plant(adapter))).result_kind(checkpoint.open_model(str(tiny_checkpoint)))


def test_another_adapter_is_another_model(adapter: Path) -> None:
    before = MergeAdapter(str(adapter)).settings()
    assert MergeAdapter(str(change(adapter, lora_alpha=3))).settings() != before


@pytest.mark.slow
def test_an_opened_model_can_have_an_adapter(adapter: Path, tiny_checkpoint: Path) -> None:
    model = inputs.open_model(str(tiny_checkpoint), adapter=adapter)
    assert [step.technique for step in model.lineage.steps] == ["adapter"]
    assert torch.equal(load_file(model.path / "model.safetensors")[NORM], torch.full((64,), 2.0))
