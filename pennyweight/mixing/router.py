"""Router: which model answers is decided before anything is generated, from a sentence embedding of the request and the
shape of its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.mixing.regression import Block, fit_regression
from pennyweight.mixing.text_shape import MEASURES, text_shape
from pennyweight.mixture import LossRegression
from pennyweight.workload import content_text

Floats = NDArray[np.float64]
SHAPE_WEIGHT = 6.0  # of one measure of the shape, against one number of the embedding


def question_text(messages: Any, prompt: str = "") -> str:
    """What a router looks at: the last user message, without which the whole of the others, or the prompt. Messages may
    be whatever a client sends."""
    known = [one for one in messages if isinstance(one, Mapping)] if isinstance(messages, Sequence) else []
    said = [(str(one.get("role")), content_text(one.get("content"))) for one in known]
    asked = [text for role, text in said if role == "user" and text]
    return asked[-1] if asked else "\n".join(text for _, text in said) or prompt


def router_features(embeddings: Floats, texts: Sequence[str]) -> Floats:
    """(requests, width + measures of the shape)."""
    shapes = np.array([text_shape(text) for text in texts], np.float64).reshape(len(texts), len(MEASURES))
    return np.hstack([embeddings, shapes])


def fit_router(embeddings: Floats, texts: Sequence[str], small: Floats, large: Floats) -> LossRegression:
    blocks = (Block(embeddings.shape[1], alike=True), Block(len(MEASURES), SHAPE_WEIGHT))
    return fit_regression(router_features(embeddings, texts), small, large, blocks)
