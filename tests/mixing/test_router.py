"""A router learns where the small model loses, and says so as the gateway will: from a few numbers in a file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pennyweight.errors import UsageError
from pennyweight.mixing.router import Router, fit_router

WIDTH = 8


def made(count: int, seed: int = 0) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Requests on which the small model fails where the first number of the embedding is high."""
    generator = np.random.default_rng(seed)
    embeddings = generator.normal(size=(count, WIDTH))
    hard = 1 / (1 + np.exp(-3 * embeddings[:, 0]))
    small = (generator.random(count) > hard).astype(float)
    return embeddings, ["a question"] * count, small, np.ones(count)


def test_it_ranks_requests_by_what_they_would_lose() -> None:
    router = fit_router(*made(400))
    embeddings, texts, small, large = made(400, seed=1)
    scores = router.scores(embeddings, texts)
    safest = np.argsort(scores)[:200]
    assert (large - small)[safest].mean() < 0.5 * (large - small).mean()


def test_what_it_foresees_rises_with_the_score_and_is_about_right() -> None:
    router = fit_router(*made(1000))
    embeddings, texts, small, large = made(1000, seed=1)
    scores = router.scores(embeddings, texts)
    foreseen = router.foreseen(np.sort(scores))
    assert np.all(np.diff(foreseen) >= 0)
    assert abs(router.foreseen(scores).mean() - (large - small).mean()) < 0.05


def test_it_survives_a_file() -> None:
    router = fit_router(*made(100))
    given = json.loads(json.dumps(router.to_json()))
    read = Router(**{name: tuple(map(tuple, v)) if name == "knots" else v for name, v in given.items()})
    embeddings, texts, *_ = made(20, seed=2)
    assert np.allclose(read.scores(embeddings, texts), router.scores(embeddings, texts))


def test_models_that_never_differ_are_refused() -> None:
    embeddings, texts, _, large = made(50)
    with pytest.raises(UsageError, match="score alike on every request"):
        fit_router(embeddings, texts, large, large)


def test_an_embedding_of_another_width_is_refused() -> None:
    router = fit_router(*made(50))
    with pytest.raises(UsageError, match="embeddings of 8 numbers and gets 5"):
        router.scores(np.zeros((1, 5)), ["x"])
