"""Tensors in, tensors out, one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pennyweight import checkpoint, weights
from pennyweight.checks.safetensors_files import weight_files
from pennyweight.errors import ModelError
from pennyweight.model import Model
from pennyweight.weights import Weights, rewrite


@pytest.mark.parametrize("shard_bytes", [1, 40_000, 1 << 30])
def test_any_shard_size_holds_the_same_tensors(shard_bytes: int, tiny_checkpoint: Path, tmp_path: Path) -> None:
    import torch

    config = Model.config_of(tiny_checkpoint)
    rewrite(tiny_checkpoint, tmp_path, config, lambda name, tensor: [(name, tensor)], shard_bytes)
    before, after = Weights(tiny_checkpoint), Weights(tmp_path)
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    files = weight_files(tmp_path)
    assert (len(files) == 1) is (shard_bytes > 1e6)
    assert all(file.stat().st_size < shard_bytes + 150_000 for file in files)
    assert checkpoint.open_model(str(tmp_path)).scheme == "F32"


def test_a_change_may_rename_and_drop(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def change(name: str, tensor: Any) -> list[tuple[str, Any]]:
        return [] if "norm" in name else [(f"x.{name}", tensor)]

    rewrite(tiny_checkpoint, tmp_path, {}, change)
    assert all(name.startswith("x.") and "norm" not in name for name in Weights(tmp_path))


def test_a_view_takes_only_its_own_bytes(tmp_path: Path) -> None:
    import torch

    weights.write(tmp_path, [("a", torch.zeros(1000, 100)[:10])])
    assert (tmp_path / "model.safetensors").stat().st_size < 10_000


def test_a_missing_tensor_is_named(tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="lm_heads"):
        Weights(tiny_checkpoint)["lm_heads"]
