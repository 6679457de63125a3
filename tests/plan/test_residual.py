"""The residual: it knows what was measured, is silent far from it, and two runs of a deployment correct it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.plan.residual import Kernel, Row, fit_residual

KERNEL = Kernel((0.2,) * 7, (0.2,) * 7, (1.0, 1.0), 0.05)


def row(place: float, model: str = "m", version: str = "1") -> Row:
    return Row("vllm", model, "Big", "bf16", version, "1x1x1x1", (place, 0.0))


ROWS = [row(place) for place in np.linspace(0, 4, 12)]
VALUES = np.sin([one.place[0] for one in ROWS]) * 0.3


def test_it_gives_what_was_measured_and_its_interval_grows_with_distance() -> None:
    found = fit_residual(KERNEL, ROWS, VALUES, support=12)
    mean, deviation = found.given(ROWS, [], np.zeros(0))
    assert np.abs(mean - VALUES).max() < 0.05 and deviation.max() < 0.1
    far, wide = found.given([row(50.0, "another"), Row("x", "y", "z", "w", "v", "u", (50.0, 0.0))], [], np.zeros(0))
    assert deviation.max() < wide[0] < wide[1] and abs(far[1]) < 1e-9
    assert wide[1] == pytest.approx(np.sqrt(KERNEL.prior + KERNEL.noise**2))


def test_two_runs_correct_an_unseen_model() -> None:
    found = fit_residual(KERNEL, ROWS, VALUES, support=12)
    new, known = row(2.0, "another"), [row(0.5, "another"), row(3.5, "another")]
    before, wide = found.given([new], [], np.zeros(0))
    after, narrow = found.given([new], known, np.array([0.8, 0.8]))
    assert abs(before[0] - 0.8) > 0.4 > 0.2 > abs(after[0] - 0.8) and narrow[0] < wide[0]


def test_one_misreported_row_moves_little() -> None:
    values = np.full(12, 0.1)
    wrong = values.copy()
    wrong[6] = 3.0
    mean, _ = fit_residual(KERNEL, ROWS, wrong, support=12).given(ROWS[:6], [], np.zeros(0))
    assert np.abs(mean - 0.1).max() < 0.15


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=12), st.floats(-10, 10), st.sampled_from(["m", "n"]))
@settings(max_examples=60, deadline=None)
def test_variance_is_never_above_the_prior_nor_below_the_noise(places: list[float], at: float, model: str) -> None:
    rows = [row(place) for place in places]
    found = fit_residual(KERNEL, rows, np.array(places) / 10, support=5)
    for known in ([], rows[:2]):
        _, deviation = found.given([row(at, model)], known, np.zeros(len(known)))
        assert KERNEL.noise * 0.99 <= deviation[0] <= np.sqrt(KERNEL.prior + KERNEL.noise**2) * 1.01
