"""What a policy learns: to rank requests by what they would lose with the small model, and to foresee how much."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pennyweight import codec
from pennyweight.errors import UsageError
from pennyweight.mixing.cascade import SIGNS, SmallAnswer, cascade_features, fit_cascade
from pennyweight.mixing.regression import Block, fit_regression, foreseen_loss, loss_scores
from pennyweight.mixing.router import fit_router, router_features
from pennyweight.mixing.text_shape import MEASURES
from pennyweight.mixture import LossRegression

WIDTH = 8


def made(count: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Requests on which the small model fails where the first feature is high."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, WIDTH))
    hard = 1 / (1 + np.exp(-3 * features[:, 0]))
    return features, (generator.random(count) > hard).astype(float), np.ones(count)


def fitted(count: int) -> LossRegression:
    return fit_regression(*made(count), (Block(WIDTH, alike=True),))


def test_it_ranks_requests_by_what_they_would_lose() -> None:
    features, small, large = made(400, seed=1)
    safest = np.argsort(loss_scores(fitted(400), features))[:200]
    assert (large - small)[safest].mean() < 0.5 * (large - small).mean()


def test_what_it_foresees_rises_with_the_score_and_is_about_right() -> None:
    features, small, large = made(1000, seed=1)
    regression = fitted(1000)
    scores = loss_scores(regression, features)
    assert np.all(np.diff(foreseen_loss(regression, np.sort(scores))) >= 0)
    assert abs(foreseen_loss(regression, scores).mean() - (large - small).mean()) < 0.05


def test_it_survives_a_file() -> None:
    regression = fitted(100)
    again = codec.value_of(LossRegression, json.loads(json.dumps(codec.plain(regression))), "a test")
    features, *_ = made(20, seed=2)
    assert again == regression and np.allclose(loss_scores(again, features), loss_scores(regression, features))


def test_models_that_never_differ_are_refused() -> None:
    features, _, large = made(50)
    with pytest.raises(UsageError, match="score alike on every request"):
        fit_regression(features, large, large, (Block(WIDTH),))


def test_features_of_another_number_are_refused() -> None:
    with pytest.raises(UsageError, match="fitted on 8 numbers a request and gets 5"):
        loss_scores(fitted(50), np.zeros((1, 5)))


def test_a_feature_that_never_changes_is_no_error() -> None:
    features, small, large = made(100)
    features[:, 3] = 7.0
    assert np.isfinite(loss_scores(fit_regression(features, small, large, (Block(WIDTH),)), features)).all()


def test_a_router_sees_the_embedding_and_the_shape() -> None:
    features, small, large = made(100)
    texts = [f"question {n}?" for n in range(100)]
    regression = fit_router(features, texts, small, large)
    assert len(regression.weights) == WIDTH + len(MEASURES)
    assert np.isfinite(loss_scores(regression, router_features(features, texts))).all()


def test_a_cascade_keeps_what_the_small_model_was_sure_of() -> None:
    generator = np.random.default_rng(0)
    right = generator.random(300) < 0.6
    sure = [SmallAnswer([-0.05 - generator.random() * (0.2 if ok else 3.0) for _ in range(12)]) for ok in right]
    regression = fit_cascade(sure, right.astype(float), np.ones(300))
    scores = loss_scores(regression, cascade_features(sure))
    assert scores[right].mean() < scores[~right].mean() - 0.3


def test_signs_of_an_answer() -> None:
    signs = dict(zip(SIGNS, cascade_features([SmallAnswer([-0.1, -3.0, -0.2], cut=True)])[0], strict=True))
    assert signs["least"] == -3.0 and signs["first"] == -0.1 and signs["last"] == -0.2 and signs["cut"] == 1
    assert signs["unsure tokens"] == pytest.approx(1 / 3) and signs["mean"] == pytest.approx(-1.1)
    begun = dict(zip(SIGNS, cascade_features([SmallAnswer([-0.1, -3.0, -0.2], cut=True)], 2)[0], strict=True))
    assert begun["last"] == -3.0 and begun["cut"] == 0, "what comes later is not known yet"
    empty = cascade_features([SmallAnswer([]), SmallAnswer([float("-inf")])])
    assert np.isfinite(empty).all() and empty[0, 0] == -20.0
