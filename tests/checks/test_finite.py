"""A checkpoint with a number that is none is refused, with the tensor's name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pennyweight.checks import finite
from pennyweight.checks.finite import check_finite
from pennyweight.errors import ModelError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_tensor_is_named(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    good, bad = torch.randn(3, 5).to(dtype), torch.randn(7).to(dtype)
    bad[6] = value
    save_file({"good": good, "bad": bad}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="tensor bad"):
        check_finite(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_largest_numbers_are_numbers(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "CHUNK", 2)
    limits = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min, torch.finfo(dtype).tiny, 0.0], dtype=dtype)
    save_file({"limits": limits, "whole": torch.arange(3), "none": torch.zeros(0, dtype=dtype)}, tmp_path / "x")
    check_finite(tmp_path / "x")
