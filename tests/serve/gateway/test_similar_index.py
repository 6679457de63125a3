"""Nearest questions: exact in a small partition, by an index in a large one, and never worse while that is built."""

from __future__ import annotations

import time
import uuid

import numpy as np
import pytest

from pennyweight.embedding import Reading
from pennyweight.errors import UsageError
from pennyweight.serve.gateway import similar_index
from pennyweight.serve.gateway.similar_index import Partition
from pennyweight.serve.gateway.similar_store import Kept

WIDTH, LEAST = 32, 300


def kept(vector: np.ndarray) -> Kept:
    reading = Reading(vector / np.linalg.norm(vector), ("a",), np.ones((1, WIDTH), np.float32) / WIDTH**0.5)
    return Kept(uuid.uuid4().hex, "p", "how?", reading, "application/json", b"{}", "x", time.time())


def nearest_three(partition: Partition, vector: np.ndarray) -> set[int]:
    return {place for place, _ in partition.nearest(vector, 3)}


def until(partition: Partition, vector: np.ndarray, covered: int) -> None:
    end = time.monotonic() + 30
    while partition._covered < covered and time.monotonic() < end:
        partition.nearest(vector, 3)
        time.sleep(0.01)
    assert partition._covered == covered


def test_a_large_partition_finds_the_same_before_while_and_after_its_index_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("usearch")
    monkeypatch.setattr(similar_index, "EXACT", LEAST)
    draws = np.random.default_rng(0)
    vectors = draws.normal(size=(LEAST + 60, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = vectors[7] + 0.1 * draws.normal(size=WIDTH)
    asked /= np.linalg.norm(asked)
    partition = Partition()
    for count, vector in enumerate(vectors, 1):
        partition.add(kept(vector))
        if count in (LEAST, LEAST + 1, LEAST + 30):
            truth = set(np.argsort(-(vectors[:count] @ asked))[:3].tolist())
            assert nearest_three(partition, asked) == truth
    until(partition, asked, len(vectors))
    assert nearest_three(partition, asked) == set(np.argsort(-(vectors @ asked))[:3].tolist())
    partition.drop(partition.ids[7])
    assert 7 not in nearest_three(partition, asked)


def test_without_an_index_all_are_compared(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(vectors: np.ndarray) -> None:
        raise UsageError("needs usearch")

    monkeypatch.setattr(similar_index, "EXACT", 10)
    monkeypatch.setattr(similar_index, "approximate", fails)
    partition, vectors = Partition(), np.eye(WIDTH)[:20]
    for vector in vectors:
        partition.add(kept(vector))
    for _ in range(50):
        assert partition.nearest(vectors[13], 1)[0][0] == 13
        time.sleep(0.002)
    assert caplog.text.count("needs usearch") == 1
