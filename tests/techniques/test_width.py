"""Which neurons, heads and channels stay, and what the norms make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pennyweight.errors import UsageError
from pennyweight.model import Lineage, Model
from pennyweight.shape import ModelShape
from pennyweight.techniques.width import Width, intermediate_for, narrowed

LAYOUT = ModelShape("llama", 4, 64, 128, 4, 2, 16, 512, tied=True)


def test_the_config_names_what_it_implied_before() -> None:
    made = narrowed({"model_type": "llama"}, LAYOUT, Width(intermediate=96, groups=1))
    assert made == {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_key_value_heads": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }


def test_parameters_become_a_width() -> None:
    neurons = 3 * LAYOUT.hidden_size * LAYOUT.layers
    assert intermediate_for(LAYOUT, LAYOUT.parameters - 32 * neurons) == 96
    assert intermediate_for(LAYOUT, LAYOUT.parameters - 32 * neurons - 1) == 64
    with pytest.raises(UsageError, match="no feed-forward"):
        intermediate_for(LAYOUT, LAYOUT.parameters - 120 * neurons)


def test_an_unknown_ranking_is_refused() -> None:
    with pytest.raises(UsageError, match="ranking"):
        Width(ranking="luck")


def test_channels_that_the_heads_do_not_divide_are_refused(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 288,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "vocab_size": 512,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.norm.weight": np.ones(288, np.float32)}, tmp_path / "model.safetensors")
    model = Model(tmp_path, "huggingface", "F32", Lineage("x", {}))
    with pytest.raises(UsageError, match="multiple of 96"):
        Width(hidden=224, calibration=("x",)).result_kind(model)
    assert Width(hidden=192, calibration=("x",)).result_kind(model) == ("huggingface", "F32")
