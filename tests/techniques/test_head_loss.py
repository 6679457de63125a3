"""The loss in pieces is the loss, and so are its gradients."""

from __future__ import annotations

import pytest

from pennyweight.techniques import head_loss
from pennyweight.techniques.divergence import divergence, parse_mix


@pytest.mark.parametrize("mix", ["forward", "reverse:0.5,jensen-shannon:2"])
def test_pieces_give_the_whole(mix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(head_loss, "PIECE", 3)
    torch.manual_seed(0)
    theirs, other = torch.randn(10, 6), torch.randn(20, 6)
    ours, weight = torch.randn(10, 5, requires_grad=True), torch.randn(20, 5, requires_grad=True)
    wanted = theirs @ other.T
    whole = divergence((ours @ weight.T).log_softmax(-1), wanted.log_softmax(-1), parse_mix(mix))
    expected = torch.autograd.grad(3 * whole, [ours, weight])
    pieces = head_loss.head_divergence(ours, weight, theirs, other, parse_mix(mix))
    assert float(pieces) == pytest.approx(float(whole), rel=1e-5)
    low = head_loss.head_divergence(ours, weight, theirs, other, parse_mix(mix), low=True)
    assert float(low) == pytest.approx(float(whole), rel=0.05)
    frozen = head_loss.head_divergence(ours, weight.detach(), theirs, other, parse_mix(mix))
    assert torch.allclose(torch.autograd.grad(3 * frozen, [ours])[0], expected[0], atol=1e-5)
    for made, right in zip(torch.autograd.grad(3 * pieces, [ours, weight]), expected, strict=True):
        assert torch.allclose(made, right, atol=1e-5)
