"""The nearest questions of a partition: exact up to `EXACT`, by usearch above. Held in memory, filled from the store,
and kept up with what other gateways add to it."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.embedding import Reading
from pennyweight.errors import UsageError
from pennyweight.serve.gateway.similar_store import Kept, SimilarStore, packed, unpacked
from pennyweight.similarity.differences import Question

EXACT = 20_000
MOST_VECTORS = 400_000  # of all partitions together
SEARCHED = 8  # times as many as are asked for, because some are dead
LEAST_DEAD = 64
STEP = 256  # vectors by which a matrix grows


class Partition:
    """Questions and their vectors, by place. Readings are held as they
    are kept, which takes a quarter of the memory."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._made = np.zeros(0)  # -inf: forgotten
        self.questions: list[Question] = []
        self._readings: list[bytes] = []
        self.mark = 0
        self._vectors: NDArray[np.float32] | None = None
        self._approximate: Any = None

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, kept: Kept) -> None:
        place, width = len(self.ids), len(kept.reading.vector)
        if self._vectors is None or place >= len(self._vectors):
            grown = np.zeros((place + max(STEP, place // 2), width), np.float32)
            if self._vectors is not None:
                grown[:place] = self._vectors[:place]
            self._vectors = grown
            self._made = np.concatenate([self._made[:place], np.full(len(grown) - place, -np.inf)])
        self._vectors[place], self._made[place] = kept.reading.vector, kept.made
        self.ids.append(kept.id)
        self.questions.append(Question(kept.question))
        self._readings.append(packed(kept.reading))
        if self._approximate is not None:
            self._approximate.add(place, self._vectors[place])
        elif place >= EXACT:
            self._approximate = approximate(self._vectors[: place + 1])

    def drop(self, id: str) -> None:
        if id in self.ids:
            self._made[self.ids.index(id)] = -np.inf

    def reading(self, place: int) -> Reading:
        return unpacked(self._readings[place])

    def dead(self, oldest: float) -> int:
        """Answers that were forgotten, or made before."""
        return int((self._made[: len(self.ids)] <= oldest).sum())

    def nearest(self, vector: NDArray[np.float64], count: int, oldest: float = 0.0) -> list[tuple[int, float]]:
        """(place, cosine) of those made after `oldest`, the nearest first."""
        if self._vectors is None:
            return []
        asked = vector.astype(np.float32)
        living = self._made[: len(self.ids)] > oldest
        if self._approximate is not None:
            found = self._approximate.search(asked, SEARCHED * count)
            pairs = [(int(key), float(self._vectors[int(key)] @ asked)) for key in found.keys]
            pairs = [pair for pair in pairs if living[pair[0]]][:count]
        else:
            cosines = np.where(living, self._vectors[: len(self.ids)] @ asked, -np.inf)
            best = np.argpartition(-cosines, count - 1)[:count] if len(cosines) > count else np.arange(len(cosines))
            pairs = [(int(place), float(cosines[place])) for place in best]
        return sorted((pair for pair in pairs if living[pair[0]]), key=lambda pair: -pair[1])


def approximate(vectors: NDArray[np.float32]) -> Any:
    """A graph index (HNSW: Malkov & Yashunin 2016, arxiv.org/abs/1603.09320)."""
    try:
        from usearch.index import Index
    except ImportError:
        raise UsageError(
            f"More than {EXACT} similar questions need usearch: run `pip install pennyweight[similar]`."
        ) from None
    made = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    made.add(np.arange(len(vectors)), vectors)
    return made


class SimilarIndex:
    def __init__(self, store: SimilarStore, ttl: float) -> None:
        self._store, self.ttl = store, ttl
        self._partitions: OrderedDict[str, Partition] = OrderedDict()

    def partition(self, name: str) -> Partition:
        """With all that the store has by now."""
        found = self._partitions.get(name)
        if found is None or found.dead(time.time() - self.ttl) > max(LEAST_DEAD, len(found) // 4):
            found = self._partitions[name] = Partition()
        self._partitions.move_to_end(name)
        added, found.mark = self._store.since(name, found.mark)
        for kept in added:
            found.add(kept)
        while len(self._partitions) > 1 and sum(map(len, self._partitions.values())) > MOST_VECTORS:
            self._partitions.popitem(last=False)
        return found
