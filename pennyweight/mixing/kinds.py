"""Which model answers, by the kind of a request: what it says beside its question (by its instructions), or the cluster
of its question's embedding. The cheapest policies: nothing is learned but one number for each kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError
from pennyweight.mixture import ClusterLosses, KindLosses
from pennyweight.workload import INSTRUCTING, content_text

Floats = NDArray[np.float64]
FORM = ("response_format", "tools")  # fields
PLAIN = {"type": "text"}  # a response_format that asks for none
NEVER = np.inf  # the score of what the small model is not asked
MOST_CLUSTERS, LEAST_IN_A_CLUSTER = 12, 20


def request_kind(body: Mapping[str, Any]) -> str:
    """Equal for requests with the same instructions (system and developer messages), form and tools; empty for one
    that has none of them. `body` is whatever a client sends."""
    messages = body.get("messages")
    listed = messages if isinstance(messages, Sequence) and not isinstance(messages, str) else ()
    said = [
        content_text(one.get("content"))
        for one in listed
        if isinstance(one, Mapping) and str(one.get("role")) in INSTRUCTING
    ]
    choice = body.get("tool_choice")
    form = {name: body[name] for name in FORM if body.get(name) and body[name] != PLAIN}
    if choice == "none":
        form.pop("tools", None)
    elif form.get("tools") and choice not in (None, "auto"):
        form["tool_choice"] = choice
    if not said and not form:
        return ""
    return hashlib.sha256(json.dumps([said, form], sort_keys=True, default=str).encode()).hexdigest()[:16]


def fit_kinds(kinds: Sequence[str], small: Floats, large: Floats) -> KindLosses:
    """kinds: of the tuning half's requests; small, large: (requests,) scores."""
    names = sorted(set(kinds))
    losses = _mean_losses(np.array([names.index(kind) for kind in kinds]), large - small, len(names))
    return KindLosses(tuple(zip(names, losses, strict=True)))


def kind_scores(fitted: KindLosses, kinds: Sequence[str]) -> Floats:
    """(requests,), lower is safer to keep."""
    known = dict(fitted.losses)
    return np.array([known.get(kind, NEVER) for kind in kinds], np.float64)


def fit_clusters(embeddings: Floats, small: Floats, large: Floats) -> ClusterLosses:
    """embeddings: (requests, width)."""
    from sklearn.cluster import KMeans

    count = max(2, min(MOST_CLUSTERS, len(embeddings) // LEAST_IN_A_CLUSTER))
    found = KMeans(min(count, len(embeddings)), n_init=4, random_state=0).fit(embeddings)
    centres = tuple(tuple(map(float, row)) for row in found.cluster_centers_)
    return ClusterLosses(centres, tuple(_mean_losses(found.labels_, large - small, len(centres))))


def cluster_scores(fitted: ClusterLosses, embeddings: Floats) -> Floats:
    """(requests, width) -> (requests,)."""
    centres = np.array(fitted.centres)
    if embeddings.shape[1] != centres.shape[1]:
        raise UsageError(
            f"This policy was fitted on embeddings of {centres.shape[1]} numbers and gets {embeddings.shape[1]}: use "
            "the embedding model that it was fitted with, or fit it again."
        )
    nearest = ((centres**2).sum(1)[None] - 2 * embeddings @ centres.T).argmin(1)
    return np.asarray(np.array(fitted.losses)[nearest])


def _mean_losses(groups: NDArray[np.int64], lost: Floats, count: int) -> list[float]:
    """Of each group, as if one loss more had been seen: a group that was seen a few times comes after one that was
    seen often."""
    sums, sizes = (np.bincount(groups, weights=row, minlength=count) for row in (lost, np.ones(len(lost))))
    return [float(value) for value in (sums + 1) / (sizes + 1)]
