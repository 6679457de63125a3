"""The loss in pieces is the loss, and so are its gradients."""

from __future__ import annotations

import pytest

from pennyweight.techniques import head_loss
from pennyweight.techniques.divergence import divergence, parse_mix


@pytest.mark.parametrize("mix", ["forward", "reverse:0.5,jensen-shannon:2"])
@pytest.mark.parametrize("trimmed", [False, True])
def test_pieces_give_the_whole(mix: str, trimmed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(head_loss, "PIECE", 3)
    torch.manual_seed(0)
    theirs, other = torch.randn(10, 6), torch.randn(20, 6)
    ids = torch.tensor([1, 4, 7, 19]) if trimmed else None
    ours, weight = torch.randn(10, 5, requires_grad=True), torch.randn(4 if trimmed else 20, 5, requires_grad=True)
    wanted = theirs @ (other if ids is None else other[ids]).T
    whole = divergence((ours @ weight.T).log_softmax(-1), wanted.log_softmax(-1), parse_mix(mix))
    expected = torch.autograd.grad(3 * whole, [ours, weight])
    pieces = head_loss.head_divergence(ours, weight, theirs, other, ids, parse_mix(mix))
    assert float(pieces) == pytest.approx(float(whole), rel=1e-5)
    for made, right in zip(torch.autograd.grad(3 * pieces, [ours, weight]), expected, strict=True):
        assert torch.allclose(made, right, atol=1e-5)
