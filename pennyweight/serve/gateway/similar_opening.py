"""Opens the cache of similar answers: its store, the embedding that reads questions, and the gate."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from prometheus_client import CollectorRegistry

from pennyweight.embedding import SentenceEmbedding
from pennyweight.errors import StorageError, UsageError
from pennyweight.serve.gateway.similar_bound import SimilarFigures
from pennyweight.serve.gateway.similar_cache import SimilarAnswers
from pennyweight.serve.gateway.similar_redis import RedisSimilarStore
from pennyweight.serve.gateway.similar_sqlite import SQLiteSimilarStore
from pennyweight.serve.gateway.similar_store import SimilarStore
from pennyweight.service import CachePolicy
from pennyweight.similarity.bound import upper_bound
from pennyweight.similarity.gate import Gate, read_gate, shipped_gate

LOG = logging.getLogger("pennyweight.gateway")
FOREVER = 2**31  # seconds, a TTL that no answer outlives
SHIPPED = "all-MiniLM-L6-v2, 8-bit products"


def open_similar(
    policy: CachePolicy, registry: CollectorRegistry, service: str, *, rebuild: bool = False
) -> SimilarAnswers | None:
    """None where it is off. Raises `UsageError` where the embedding is missing, `StorageError` where the questions in a
    file were read by another one; `rebuild` drops those. (Redis keeps those of each embedding apart.)"""
    similar = policy.similar
    if not similar.limit:
        return None
    place = Path(similar.embedding) if similar.embedding else None
    embedding = SentenceEmbedding(place, num_threads=1, eight_bit=place is None)
    name = SHIPPED if place is None else hashlib.sha256((place / "model.onnx").read_bytes()).hexdigest()[:16]
    ttl = similar.ttl_seconds or policy.ttl_seconds
    store: SimilarStore
    gate = shipped_gate()
    if "://" in policy.place:
        store = RedisSimilarStore(policy.place, ttl, name)
    else:
        store = _file(policy, ttl, name, rebuild=rebuild)
        gate = gate_in(store)
    upper_bound(0, 1, 0.05)  # SciPy is imported now, and not while requests wait
    return SimilarAnswers(
        similar, store, gate, embedding.read, SimilarFigures(registry), embedding=name, service=service, ttl=ttl
    )


def _file(policy: CachePolicy, ttl: float, embedding: str, *, rebuild: bool) -> SQLiteSimilarStore:
    store = SQLiteSimilarStore(Path(policy.place), ttl, policy.max_bytes)
    before = store.embedding()
    if before not in ("", embedding):
        if not rebuild:
            raise StorageError(
                f"The questions in {policy.place} were read by another embedding ({before}, now {embedding}), and "
                "cannot be compared: give --cache-similar-rebuild to begin anew, or another --cache."
            )
        store.clear()
    store.set_embedding(embedding)
    return store


def gate_in(store: SQLiteSimilarStore) -> Gate:
    """The one that was fitted to this traffic, else the shipped one."""
    text = store.gate()
    try:
        return read_gate(text, "the gate in the cache") if text else shipped_gate()
    except (StorageError, ValueError) as error:
        LOG.warning("%s Until then the shipped gate is used.", error)
        return shipped_gate()


def kept_in(place: str) -> SQLiteSimilarStore | RedisSimilarStore:
    """The answers that are kept in a file or in Redis, to be listed and forgotten. Raises `UsageError` where there are
    none, `StorageError` where Redis does not answer."""
    if "://" in place:
        store = RedisSimilarStore(place, FOREVER, "")
        if store.failures:
            raise StorageError(f"{place} does not answer: is Redis running there?")
        return store
    return kept_in_file(Path(place))


def kept_in_file(file: Path) -> SQLiteSimilarStore:
    if not file.exists():
        raise UsageError(f"{file} does not exist: give the file of `pw serve --cache … --cache-similar`.")
    if not SQLiteSimilarStore.is_in(file):
        raise UsageError(f"{file} holds no similar answers: give the file of `pw serve --cache … --cache-similar`.")
    return SQLiteSimilarStore(file, FOREVER)
