"""Router: how much a request would lose with the small model, foreseen from its text alone.

A ridge regression of (large score - small score) on a sentence embedding and the text's shape, calibrated by an
isotonic one. Both are a handful of numbers in service.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError
from pennyweight.mixing.text_shape import text_shape

Floats = NDArray[np.float64]
Embed = Callable[[Sequence[str]], Floats]  # texts -> (texts, width)
STRENGTHS = tuple(np.geomspace(1e2, 1e5, 10))  # of the regularisation
SHAPE_WEIGHT = 4.0  # of one measure of the shape, against one number of the embedding
FOLDS = 5


@dataclass(frozen=True)
class Router:
    """`means`, `scales` and `weights` have a number for each of the embedding, then for each measure of the text's
    shape. `knots` maps a score to the loss that was seen at it: (score, loss), rising."""

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    knots: tuple[tuple[float, float], ...]

    def scores(self, embeddings: Floats, texts: Sequence[str]) -> Floats:
        """(requests,), lower is safer to keep with the small model. `embeddings` is (requests, width)."""
        given = _given(embeddings, texts)
        if given.shape[1] != len(self.weights):
            raise UsageError(
                f"This router was fitted with embeddings of {len(self.weights) - _measures()} numbers and gets "
                f"{embeddings.shape[1]}: use the embedding model that it was fitted with."
            )
        return np.asarray(((given - self.means) / self.scales) @ np.array(self.weights) + self.bias)

    def foreseen(self, scores: Floats) -> Floats:
        """The loss to be expected at these scores."""
        places, losses = zip(*self.knots, strict=True)
        return np.asarray(np.interp(scores, places, losses))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fit_router(embeddings: Floats, texts: Sequence[str], small: Floats, large: Floats) -> Router:
    """Fit on the tuning half. small, large: (requests,) scores of both models in 0..1. Raises `UsageError` where they
    never differ, because there is nothing to learn: one model alone is the answer then."""
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    lost = large - small
    if len(set(lost.tolist())) < 2:
        raise UsageError(
            "Both models score alike on every request: a router has nothing to learn. Use the cheaper one."
        )
    given = _given(embeddings, texts)
    means, scales = given.mean(0), _scales(given, embeddings.shape[1])
    scaled = (given - means) / scales
    strength = float(RidgeCV(STRENGTHS).fit(scaled, lost).alpha_)
    model = Ridge(strength).fit(scaled, lost)
    folds = KFold(min(FOLDS, len(lost)), shuffle=True, random_state=0)
    apart = cross_val_predict(Ridge(strength), scaled, lost, cv=folds)  # each by a model that has not seen it
    curve = IsotonicRegression(out_of_bounds="clip").fit(apart, lost)
    knots = tuple(zip(curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist(), strict=True))
    return Router(
        tuple(means.tolist()), tuple(scales.tolist()), tuple(model.coef_.tolist()), float(model.intercept_), knots
    )


def _given(embeddings: Floats, texts: Sequence[str]) -> Floats:
    shapes = np.array([text_shape(text) for text in texts], np.float64).reshape(len(texts), _measures())
    return np.hstack([embeddings, shapes])


def _scales(given: Floats, width: int) -> Floats:
    """One scale for the whole embedding, whose directions keep their sizes; one for each measure of the shape."""
    scales: Floats = np.asarray(given.std(0))
    scales[:width] = max(float(np.sqrt(np.mean(scales[:width] ** 2))), 1e-9)
    scales[width:] = np.where(scales[width:] > 1e-9, scales[width:], 1.0) / SHAPE_WEIGHT
    return scales


def _measures() -> int:
    return len(text_shape(""))
