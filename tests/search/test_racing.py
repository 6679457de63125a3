"""The race: the cheapest model that holds, with few requests, and never one that loses too much."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.search.racing import Ask, looks_of, race

REQUESTS, LIMIT, ERROR = 1000, 0.05, 0.05


def model(lost: float, seed: int = 0, gained: float = 0.02) -> Ask:
    """The reference is right in 80%; the model loses this share of its score, net of what it gains."""
    generator = np.random.default_rng(seed)
    reference = (generator.random(REQUESTS) < 0.8).astype(float)
    chance = generator.random(REQUESTS)
    fails = chance < lost + gained * 0.25
    scores = np.where(reference == 1, ~fails, chance < gained).astype(float)
    return lambda count: (scores[:count], reference[:count])


def test_looks_double_up_to_all() -> None:
    assert looks_of(1000) == [64, 128, 256, 512, 1000]
    assert looks_of(64) == [64] and looks_of(10) == [10] and looks_of(65) == [64, 65]


def test_one_that_holds_is_accepted_early_and_the_dearer_ones_are_not_asked() -> None:
    asked = []

    def dear(count: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(count)
        return model(0.0)(count)

    (found,) = race([("small", model(-0.1, gained=0.5)), ("middle", dear)], REQUESTS, LIMIT, error=ERROR)
    assert found.outcome == "accepted" and found.looks[-1].requests < REQUESTS and not asked


def test_one_that_loses_too_much_is_dropped_early() -> None:
    first, second = race([("bad", model(0.4)), ("good", model(-0.1, gained=0.5))], REQUESTS, LIMIT, error=ERROR)
    assert first.outcome == "dropped" and first.looks[-1].requests <= 128
    assert second.outcome == "accepted"


def test_one_that_cannot_be_told_stays_open() -> None:
    (found,) = race([("near", model(0.04))], REQUESTS, LIMIT, error=ERROR)
    assert found.outcome == "open" and found.looks[-1].requests == REQUESTS
    assert found.looks[-1].lower < LIMIT < found.looks[-1].upper


def test_a_reference_that_is_never_right_accepts_nothing() -> None:
    nothing = np.zeros(REQUESTS)
    (found,) = race([("any", lambda count: (nothing[:count], nothing[:count]))], REQUESTS, LIMIT, error=ERROR)
    assert found.outcome == "open"


@pytest.mark.slow
def test_models_at_the_margin_are_accepted_no_more_often_than_the_error() -> None:
    """Planted: exactly at the limit. 200 races: 5% would be 10, and 17 has a probability of 2%."""
    accepted = sum(
        race([("at", model(LIMIT, seed))], REQUESTS, LIMIT, error=ERROR)[0].outcome == "accepted" for seed in range(200)
    )
    assert accepted <= 17
