"""How much a request would lose with the small model, foreseen from numbers about it: a ridge regression of (large
score - small score), calibrated by an isotonic one. Both are a handful of numbers in a service's file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError
from pennyweight.mixture import LossRegression

Floats = NDArray[np.float64]
STRENGTHS = tuple(np.geomspace(1e0, 1e5, 16))  # of the regularisation
FOLDS = 5


def loss_scores(regression: LossRegression, features: Floats) -> Floats:
    """(requests, features) -> (requests,), lower is safer to keep with the small model."""
    if features.shape[1] != len(regression.weights):
        raise UsageError(
            f"This policy was fitted on {len(regression.weights)} numbers a request and gets {features.shape[1]}: use "
            "the embedding model and the release that it was fitted with, or fit it again."
        )
    scaled = (features - np.array(regression.means)) / np.array(regression.scales)
    return np.asarray(scaled @ np.array(regression.weights) + regression.bias)


def foreseen_loss(regression: LossRegression, found: Floats) -> Floats:
    """The loss to be expected at these scores."""
    places, losses = zip(*regression.knots, strict=True)
    return np.asarray(np.interp(found, places, losses))


@dataclass(frozen=True)
class Block:
    """Features that belong together. Of an embedding all directions keep their sizes, `alike`; other features are
    brought to one size, times `weight`."""

    width: int
    weight: float = 1.0
    alike: bool = False


def fit_regression(features: Floats, small: Floats, large: Floats, blocks: Sequence[Block]) -> LossRegression:
    """Fit on the tuning half. features: (requests, features), in the order of the blocks; small, large: (requests,)
    scores of both models in 0..1. Raises `UsageError` where they never differ, because there is nothing to learn: one
    model alone is the answer then."""
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    lost = large - small
    if len(set(lost.tolist())) < 2:
        raise UsageError(
            "Both models score alike on every request: no policy can learn from that. Use the cheaper one."
        )
    means, scales = features.mean(0), _scales(features, blocks)
    scaled = (features - means) / scales
    strength = float(RidgeCV(STRENGTHS).fit(scaled, lost).alpha_)
    model = Ridge(strength).fit(scaled, lost)
    folds = KFold(min(FOLDS, len(lost)), shuffle=True, random_state=0)
    apart = cross_val_predict(Ridge(strength), scaled, lost, cv=folds)  # each by a model that has not seen it
    curve = IsotonicRegression(out_of_bounds="clip").fit(apart, lost)
    knots = tuple(zip(curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist(), strict=True))
    weights = tuple(model.coef_.tolist())
    return LossRegression(tuple(means.tolist()), tuple(scales.tolist()), weights, float(model.intercept_), knots)


def _scales(features: Floats, blocks: Sequence[Block]) -> Floats:
    scales, place = np.asarray(features.std(0)), 0
    for block in blocks:
        part = scales[place : place + block.width]
        if block.alike:
            part[:] = float(np.sqrt(np.mean(part**2)))
        part[:] = np.where(part > 1e-9, part, 1.0) / block.weight
        place += block.width
    return scales
