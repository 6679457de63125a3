"""Techniques on many architectures: what is removed was made to do nothing, so the answers must stay the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pennyweight.errors import ModelError
from pennyweight.model import Model
from pennyweight.shape import ModelShape
from pennyweight.techniques.base import Technique
from pennyweight.techniques.depth import Depth
from pennyweight.techniques.key_value_heads import KeyValueHeads
from pennyweight.techniques.layout import (
    HIDDEN,
    KEY,
    NEURON,
    QUERY,
    QUERY_KEY_VALUE,
    TOKEN,
    Layout,
    block_kinds,
    split,
    with_blocks,
)
from pennyweight.techniques.width import Width
from tests.tiny_models import TEXT, logits, made_case

Tensors = dict[str, Any]


def without_neurons(layout: Layout, tensors: Tensors) -> None:
    """Every third neuron feeds nothing."""
    for name, tensor in tensors.items():
        if layout.axes[name] == (HIDDEN, NEURON):
            tensor[:, ::3] = 0


def without_group(layout: Layout, tensors: Tensors) -> None:
    """The first group's heads feed nothing."""
    shape = layout.shape
    for name, tensor in tensors.items():
        if layout.axes[name] == (HIDDEN, QUERY):
            tensor[:, : shape.heads // shape.num_key_value_heads * shape.head_width] = 0


def without_channels(layout: Layout, tensors: Tensors) -> None:
    """Every second channel is zero in the embedding, and no block writes to it."""
    for name, tensor in tensors.items():
        axes = layout.axes[name]
        if axes == (TOKEN, HIDDEN):
            tensor[:, ::2] = 0
        elif axes[:1] == (HIDDEN,) and "norm" not in name:
            tensor[::2] = 0


def without_block(layout: Layout, tensors: Tensors) -> None:
    """Block 1 adds nothing."""
    for name, tensor in tensors.items():
        if split(name)[0] == 1 and layout.axes[name][:1] == (HIDDEN,) and "norm" not in name:
            tensor.zero_()


def with_equal_keys(layout: Layout, tensors: Tensors) -> None:
    """All key-value heads are the first."""
    shape = layout.shape
    keys = shape.num_key_value_heads * shape.head_width
    queries = shape.heads * shape.head_width

    def repeat(tensor: Any) -> None:
        heads = tensor.view(shape.num_key_value_heads, shape.head_width, *tensor.shape[1:])
        heads[:] = heads[:1].clone()

    for name, tensor in tensors.items():
        if layout.axes[name][:1] == (KEY,):
            repeat(tensor)
        elif layout.axes[name][:1] == (QUERY_KEY_VALUE,):
            repeat(tensor[queries : queries + keys])
            repeat(tensor[queries + keys :])


Trial = tuple[Callable[[Layout, Tensors], None], Callable[[ModelShape], Technique]]
TRIALS: dict[str, Trial] = {
    "neurons": (without_neurons, lambda shape: Width(intermediate=64, calibration=TEXT)),
    "groups": (without_group, lambda shape: Width(groups=1, calibration=TEXT)),
    "channels": (without_channels, lambda shape: Width(hidden=32, calibration=TEXT)),
    "block": (without_block, lambda shape: Depth(shape.layers - 1, "influence", TEXT)),
    "keys": (with_equal_keys, lambda shape: KeyValueHeads(1)),
}


PATTERN = "its blocks differ, so that only whole patterns of them can go"
MEAN = "a layer norm takes off the mean of what is left"
EXACT: dict[str, dict[str, str]] = {  # what cannot be exact, and why
    "Qwen3": {},
    "Gemma 2": {"block": PATTERN},
    "Phi-3": {},
    "Phi-2": {"channels": MEAN},
    "SmolLM3": {"block": PATTERN},
    "Granite": {},
    "GLM-4": {},
    "StarCoder2": {"channels": MEAN},
}


@pytest.fixture(scope="module", params=EXACT)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Model]:
    return request.param, made_case(request.param, tmp_path_factory.mktemp("layout"))


@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS)
def test_what_does_nothing_is_removed_without_a_trace(trial: str, tiny: tuple[str, Model], tmp_path: Path) -> None:
    """It is also what the ranking finds."""
    from safetensors.torch import load_file, save_file

    case, model = tiny
    if trial in EXACT[case]:
        pytest.skip(EXACT[case][trial])
    change, technique = TRIALS[trial]
    layout = Layout.of_model(model)
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(model.path, source)
    target.mkdir()
    tensors = load_file(source / "model.safetensors")
    change(layout, tensors)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    made = technique(layout.shape)
    assert made.result_kind(replace(model, path=source)) == ("huggingface", "F32")
    made.build(source, target)
    assert float((logits(source) - logits(target)).abs().max()) < 1e-2


def test_a_shape_that_contradicts_its_name_is_not_known() -> None:
    shape = ModelShape("llama", 1, 64, 128, 4, 2, 16, 512, tied=True)
    layout = Layout.of(shape, {"model.layers.0.mlp.down_proj.weight": (64, 96), "model.norm.weight": (64,)})
    assert layout.axes == {"model.layers.0.mlp.down_proj.weight": (), "model.norm.weight": (HIDDEN,)}
    with pytest.raises(ModelError, match=r"llama model.*layers\.0\.mlp\.down_proj"):
        layout.refuse_unknown()
    layout.refuse_unknown("attn")
    with pytest.raises(ModelError, match="No embedding of 512 tokens"):
        layout.tables()


def test_what_a_config_lists_by_block_follows() -> None:
    config = {
        "num_hidden_layers": 4,
        "layer_types": ["a", "b", "a", "b"],
        "no_rope_layers": [1, 1, 1, 0],
        "attn_layer_indices": [1, 3],
        "mlp_only_layers": [0],
        "first_k_dense_replace": 1,
        "eos_token_id": [1, 2, 3, 4],
    }
    assert with_blocks(config, [0, 1, 3]) == {
        "num_hidden_layers": 3,
        "layer_types": ["a", "b", "b"],
        "no_rope_layers": [1, 1, 0],
        "attn_layer_indices": [1, 2],
        "mlp_only_layers": [0],
        "first_k_dense_replace": 1,
        "eos_token_id": [1, 2, 3, 4],
    }
    shape = ModelShape("x", 4, 64, 128, 4, 2, 16, 512)
    assert len(set(block_kinds(config, shape))) == 4
    assert block_kinds({"layer_types": ["a"] * 4}, shape) == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "left_out"), [("Qwen2, window", "layer_types"), ("SmolLM3", "no_rope_layers"), ("OLMo-3", "layer_types")]
)
def test_a_pattern_that_the_config_leaves_to_its_class_is_kept(case: str, left_out: str, tmp_path: Path) -> None:
    """The class would compute another one for fewer blocks."""
    import json

    from transformers import AutoConfig

    model, target = made_case(case, tmp_path), tmp_path / "target"
    config = {name: value for name, value in model.config.items() if name != left_out}
    (model.path / "config.json").write_text(json.dumps(config))
    wanted = getattr(AutoConfig.from_pretrained(model.path), left_out)[:2]
    target.mkdir()
    Depth(2, "influence", TEXT).build(model.path, target)
    assert getattr(AutoConfig.from_pretrained(target), left_out) == wanted
