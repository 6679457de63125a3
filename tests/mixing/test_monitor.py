"""The watch over a mixture: it rarely cries wolf, however long it runs, and sees a drift soon."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.mixing.monitor import STAKES, Monitor

LIMIT = 0.05


def run(share: float, *, gains: float = 0.0, requests: int, seed: int) -> Monitor:
    """Losses of 1 with this probability, and of -1 with that of the gains."""
    chance, monitor = random.Random(seed), Monitor(LIMIT)
    for _ in range(requests):
        drawn = chance.random()
        monitor.take(1.0 if drawn < share else -1.0 if drawn > 1 - gains else 0.0)
    return monitor


@pytest.mark.parametrize("gains", [0.0, 0.1])
def test_at_the_limit_it_is_rarely_alarmed_at_any_time(gains: float) -> None:
    alarms = sum(run(LIMIT + gains, gains=gains, requests=2000, seed=seed).alarmed for seed in range(200))
    assert alarms <= 0.05 * 200 + 3 * (0.05 * 0.95 * 200) ** 0.5


def test_three_times_the_limit_is_seen() -> None:
    assert sum(run(3 * LIMIT, requests=600, seed=seed).alarmed for seed in range(50)) >= 45


def test_well_below_the_limit_it_stays_calm_and_poor() -> None:
    monitor = run(LIMIT / 5, requests=1000, seed=0)
    assert not monitor.alarmed and monitor.log_wealth < 0 and monitor.mean_loss < LIMIT


def test_a_long_good_time_makes_it_no_slower_to_see_a_drift() -> None:
    """Without money laid aside, 5,000 good requests would take hundreds of losses to be won back."""
    for least, most in ((-1.0, 60), (0.0, 12)):
        monitor = Monitor(LIMIT, least=least)
        for _ in range(5000):
            monitor.take(0.0)
        count = 0
        while not monitor.take(1.0):
            count += 1
        assert count <= most


def test_losses_of_zero_and_one_at_the_limit_are_rarely_an_alarm() -> None:
    alarms = 0
    for seed in range(300):
        chance, monitor = random.Random(seed), Monitor(LIMIT, least=0.0)
        alarms += any(monitor.take(float(chance.random() < LIMIT)) for _ in range(2000))
    assert alarms <= 0.05 * 300 + 3 * (0.05 * 0.95 * 300) ** 0.5


def test_an_alarm_stays() -> None:
    monitor = Monitor(LIMIT)
    while not monitor.take(1.0):
        assert monitor.seen < 100
    assert all(monitor.take(0.0) for _ in range(1000))


def test_it_goes_on_where_it_was() -> None:
    whole, first = run(0.1, requests=100, seed=1), run(0.1, requests=100, seed=1)
    again = replace(first, wealth=list(first.wealth))
    assert again.take(1.0) == whole.take(1.0) and again.wealth == whole.wealth


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50), st.floats(0.0, 0.9))
def test_no_loss_takes_everything(losses: list[float], limit: float) -> None:
    monitor = Monitor(limit)
    for loss in losses:
        monitor.take(loss)
    assert len(monitor.wealth) == len(STAKES) and monitor.log_wealth == monitor.log_wealth
