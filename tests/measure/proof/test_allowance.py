"""One allowance: however many attempts and looks, they add up to less than the budget allows."""

from __future__ import annotations

import pytest

from pennyweight.measure.proof.allowance import Allowance, look_sizes


def test_attempts_together_stay_within_the_confidence() -> None:
    errors = [Allowance(0.95, number).error for number in range(1, 1000)]
    assert errors[0] == pytest.approx(0.025)
    assert sum(errors) < 0.05 and errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("looks", [1, 2, 3, 5])
def test_looks_share_an_attempts_error_and_the_last_has_most(looks: int) -> None:
    allowance = Allowance(0.9, 2)
    parts = [allowance.of_look(number, looks) for number in range(looks)]
    assert sum(parts) == pytest.approx(allowance.error)
    assert parts[-1] >= 0.899 * allowance.error


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (64, [64]), (71, [64, 71]), (128, [64, 128]), (500, [64, 128, 256, 500])]
)
def test_the_first_look_has_64_and_each_doubles(count: int, sizes: list[int]) -> None:
    assert look_sizes(count) == sizes
