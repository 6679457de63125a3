"""Divergences against their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.errors import UsageError
from pennyweight.techniques.divergence import divergence, parse_mix, states_distance


def test_the_definitions() -> None:
    import torch

    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    reverse = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    middle = [0.7, 0.3]
    shannon = sum(x * math.log(x / m) for x, m in zip([0.5, 0.5], middle, strict=True)) / 2
    shannon += sum(x * math.log(x / m) for x, m in zip([0.9, 0.1], middle, strict=True)) / 2
    for mix, expected in (
        ("forward", forward),
        ("reverse", reverse),
        ("jensen-shannon", shannon),
        ("forward:0.5,reverse:2", 0.5 * forward + 2 * reverse),
    ):
        assert float(divergence(q.log(), p.log(), parse_mix(mix))) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)  # the first example imports torch
@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_none_is_negative_and_equal_ones_are_nought(a: list[float], b: list[float]) -> None:
    import torch

    p, q = torch.tensor([a]).double().log_softmax(-1), torch.tensor([b]).double().log_softmax(-1)
    for name in ("forward", "reverse", "jensen-shannon"):
        assert float(divergence(p, q, {name: 1.0})) >= -1e-9
        assert float(divergence(p, p, {name: 1.0})) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("text", ["backward", "forward:x", "forward:-1", "forward:0", ""])
def test_unknown_mixes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="divergence"):
        parse_mix(text)


def test_states_are_matched_block_by_block_where_there_are_as_many() -> None:
    import torch

    teacher = [torch.full((2, 4), float(size)) for size in (9, 1, 2)]
    student = [torch.full((2, 4), float(size)) for size in (0, 2, 2)]
    assert float(states_distance(student, teacher)) == pytest.approx(0.5)  # the embeddings do not count
    assert float(states_distance(student[1:], teacher)) == pytest.approx(0.0)
