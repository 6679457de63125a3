"""Opens the cache of similar answers: its store, the embedding that reads questions, and the gate."""

from __future__ import annotations

import hashlib
from pathlib import Path

from prometheus_client import CollectorRegistry

from pennyweight.embedding import SentenceEmbedding
from pennyweight.errors import StorageError, UsageError
from pennyweight.serve.gateway.similar_bound import SimilarFigures
from pennyweight.serve.gateway.similar_cache import SimilarAnswers
from pennyweight.serve.gateway.similar_store import SQLiteSimilarStore
from pennyweight.service import CachePolicy
from pennyweight.similarity.bound import upper_bound
from pennyweight.similarity.gate import shipped_gate

SHIPPED = "all-MiniLM-L6-v2 int8"


def open_similar(
    policy: CachePolicy, registry: CollectorRegistry, service: str, *, rebuild: bool = False
) -> SimilarAnswers | None:
    """None where it is off. Raises `UsageError` where the embedding is missing, `StorageError` where the store's
    questions were read by another one; `rebuild` drops those."""
    similar = policy.similar
    if not similar.limit:
        return None
    if "://" in policy.place:
        raise UsageError("--cache-similar keeps its answers in a file so far: give --cache FILE.")
    place = Path(similar.embedding) if similar.embedding else None
    embedding = SentenceEmbedding(place, num_threads=1)
    name = SHIPPED if place is None else hashlib.sha256((place / "model.onnx").read_bytes()).hexdigest()[:16]
    store = SQLiteSimilarStore(Path(policy.place), similar.ttl_seconds or policy.ttl_seconds, policy.max_bytes)
    before = store.embedding()
    if before not in ("", name):
        if not rebuild:
            raise StorageError(
                f"The questions in {policy.place} were read by another embedding ({before}, now {name}), and cannot be "
                "compared: give --cache-similar-rebuild to begin anew, or another --cache."
            )
        store.clear()
    store.set_embedding(name)
    upper_bound(0, 1, 0.05)  # SciPy is imported now, and not while requests wait
    ttl = similar.ttl_seconds or policy.ttl_seconds
    return SimilarAnswers(
        similar,
        store,
        shipped_gate(),
        embedding.read,
        SimilarFigures(registry),
        embedding=name,
        service=service,
        ttl=ttl,
    )
