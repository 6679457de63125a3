"""Which weights become zero."""

from __future__ import annotations

import pytest

from pennyweight.errors import UsageError
from pennyweight.techniques.sparsity import Sparsity, keep_mask


def test_half_of_each_row_stays_the_better_half() -> None:
    import torch

    scores = torch.tensor([[1.0, 5.0, 2.0, 4.0], [9.0, 8.0, 7.0, 6.0]])
    assert keep_mask(scores, "50%").tolist() == [[False, True, False, True], [True, True, False, False]]


def test_two_of_every_four_neighbours_stay() -> None:
    import torch

    torch.manual_seed(0)
    mask = keep_mask(torch.rand(16, 32), "2:4")
    assert (mask.reshape(-1, 4).sum(1) == 2).all()


def test_unknown_patterns_are_refused() -> None:
    with pytest.raises(UsageError, match="3:4"):
        Sparsity("3:4")
