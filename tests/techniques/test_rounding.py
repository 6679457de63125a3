"""Our rounding is the one of the file."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.errors import UsageError
from pennyweight.techniques import rounding


@pytest.mark.parametrize("scheme", ["Q4_0", "Q8_0"])
def test_the_grid_is_ggml_s(scheme: str) -> None:
    import torch
    from gguf import GGMLQuantizationType, quants

    torch.manual_seed(0)
    weight = torch.randn(64, 96)
    weight[3] = 0
    kind = GGMLQuantizationType[scheme]
    expected = quants.dequantize(quants.quantize(weight.numpy(), kind), kind)
    assert np.allclose(rounding.rounded(weight, scheme).numpy(), expected, atol=1e-6)


def test_w4a16_has_sixteen_levels_in_a_group() -> None:
    import torch

    rounded = rounding.rounded(torch.randn(4, 32), "W4A16")
    assert max(len(set(row.tolist())) for row in rounded) <= 16


def test_the_forward_sees_rounded_weights_and_the_gradient_reaches_the_true_ones() -> None:
    import torch

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Module()
            self.model.layers = torch.nn.ModuleList([torch.nn.Linear(32, 8, bias=False)])

    toy = Toy()
    layer = toy.model.layers[0]
    before = layer.weight.detach().clone()
    rounding.train_through(toy, "Q4_0")
    inputs = torch.randn(5, 32)
    assert torch.allclose(layer(inputs), inputs @ rounding.rounded(before, "Q4_0").T, atol=1e-5)
    layer(inputs).sum().backward()
    assert torch.allclose(layer.weight.grad, inputs.sum(0).expand(8, 32), atol=1e-5)
    assert torch.equal(layer.weight.detach(), before) and list(toy.state_dict()) == ["model.layers.0.weight"]


def test_a_width_that_the_scheme_cannot_hold_is_refused() -> None:
    import torch

    toy = torch.nn.Module()
    toy.model = torch.nn.Module()
    toy.model.layers = torch.nn.ModuleList([torch.nn.Linear(40, 8)])
    with pytest.raises(UsageError, match="40"):
        rounding.train_through(toy, "Q4_0")
