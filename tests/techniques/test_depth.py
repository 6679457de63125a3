"""Which blocks stay."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.errors import ModelError, UsageError
from pennyweight.shape import ModelShape
from pennyweight.techniques.depth import Depth, layers_for, least_loss, select
from pennyweight.techniques.layout import changeable, with_blocks

GEMMA = ["sliding", "sliding", "full"] * 3


def test_without_a_pattern_the_costliest_stay() -> None:
    assert select({0: 5.0, 1: 1.0, 2: 3.0, 3: 2.0}, [], 2) == [0, 2]


@given(st.lists(st.floats(0, 1), min_size=9, max_size=9), st.integers(1, 8))
def test_a_pattern_of_layer_types_is_kept(costs: list[float], keep: int) -> None:
    kept = select(dict(enumerate(costs)), GEMMA, keep)
    assert kept == sorted(set(kept)) and len(kept) == keep
    assert [GEMMA[layer] for layer in kept] == GEMMA[:keep]


def test_a_pattern_that_cannot_be_repeated_is_refused() -> None:
    with pytest.raises(ModelError, match="pattern"):
        select({0: 1.0, 1: 1.0}, ["full", "sliding", "full"], 3)


def test_what_is_missed_least_goes_first() -> None:
    """Layers 1 and 2 do the same: each alone is hardly missed, both together are."""
    asked: list[list[int]] = []

    def loss_without(kept: Sequence[int]) -> float:
        asked.append(list(kept))
        return 1.0 + (0 in kept) * -0.5 + (1 in kept or 2 in kept) * -0.5 - 0.01 * len(kept) - (3 in kept) * 0.1

    assert least_loss([0, 1, 2, 3], 2, dict.fromkeys(range(4), 0.0), loss_without) == [0, 2]
    assert len(asked) == 4 + 3


def test_the_config_follows() -> None:
    config = {"num_hidden_layers": 9, "layer_types": GEMMA, "max_window_layers": 9}
    changed = with_blocks(config, [0, 1, 5])
    assert changed == {"num_hidden_layers": 3, "layer_types": ["sliding", "sliding", "full"], "max_window_layers": 3}


def test_parameters_become_layers() -> None:
    shape = ModelShape("llama", 10, 64, 128, 4, 2, 16, 512, tied=True)
    wanted = shape.parameters - 3 * shape.layer_parameters
    assert layers_for(shape, wanted) == 7 and layers_for(shape, wanted - 1) == 6
    with pytest.raises(UsageError, match="trim-vocabulary"):
        layers_for(shape, 10_000)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="leaves nothing"):
        Depth(0)
    with pytest.raises(UsageError, match="ranking"):
        Depth(1, "luck")


def test_gemma_s_pattern_is_known_without_layer_types() -> None:
    config = {
        "model_type": "gemma3_text",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "vocab_size": 512,
        "sliding_window_pattern": 3,
    }
    kinds = [kind[0] for kind in changeable(config).layer_types]
    assert kinds == ["s", "s", "f", "s", "s", "f", "s"]
