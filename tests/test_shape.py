"""Sizes of a decoder as its config.json gives them, held against transformers' own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight.errors import ModelError
from pennyweight.shape import ModelShape

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def test_defaults_as_transformers_has_them() -> None:
    shape = ModelShape.of(LLAMA)
    assert (shape.num_key_value_heads, shape.head_width, shape.tied, shape.experts) == (4, 16, False, 0)


def test_parameters_are_those_of_the_checkpoint(tiny_checkpoint: Path) -> None:
    from safetensors import safe_open

    config = json.loads((tiny_checkpoint / "config.json").read_text())
    with safe_open(tiny_checkpoint / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    matrices = sum(rows * columns for rows, columns in (shape for shape in shapes if len(shape) == 2))
    assert ModelShape.of(config).parameters == matrices


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"])
def test_a_size_that_is_missing_is_named(name: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != name}
    with pytest.raises(ModelError, match=name):
        ModelShape.of(config)


def test_gemma3_has_a_global_layer_at_every_sixth_place() -> None:
    shape = ModelShape.of({**LLAMA, "model_type": "gemma3_text", "num_hidden_layers": 12})
    assert [place for place, kind in enumerate(shape.layer_types) if kind == "full_attention"] == [5, 11]
