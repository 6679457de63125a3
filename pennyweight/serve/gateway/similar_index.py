"""The nearest questions of a partition: exact up to `EXACT`, by usearch above. Held in memory, filled from the store,
and kept up with what other gateways add to it."""

from __future__ import annotations

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
STEP = 256  # vectors by which a matrix grows


class Partition:
    """Questions and their vectors, by place; an answer that was forgotten has no id any more. Readings are held as they
    are kept, which takes a quarter of the memory."""

    def __init__(self) -> None:
        self.ids: list[str] = []
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
        self._vectors[place] = kept.reading.vector
        self.ids.append(kept.id)
        self.questions.append(Question(kept.question))
        self._readings.append(packed(kept.reading))
        if self._approximate is not None:
            self._approximate.add(place, self._vectors[place])
        elif place >= EXACT:
            self._approximate = approximate(self._vectors[: place + 1])

    def drop(self, id: str) -> None:
        self.ids = ["" if one == id else one for one in self.ids]

    def reading(self, place: int) -> Reading:
        return unpacked(self._readings[place])

    def nearest(self, vector: NDArray[np.float64], count: int) -> list[tuple[int, float]]:
        """(place, cosine), the nearest first."""
        if self._vectors is None:
            return []
        asked = vector.astype(np.float32)
        if self._approximate is not None:
            found = self._approximate.search(asked, count)
            pairs = [(int(key), float(self._vectors[int(key)] @ asked)) for key in found.keys]
        else:
            cosines = self._vectors[: len(self.ids)] @ asked
            best = np.argpartition(-cosines, count - 1)[:count] if len(cosines) > count else np.arange(len(cosines))
            pairs = [(int(place), float(cosines[place])) for place in best]
        return sorted((pair for pair in pairs if self.ids[pair[0]]), key=lambda pair: -pair[1])


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
    def __init__(self, store: SimilarStore) -> None:
        self._store = store
        self._partitions: OrderedDict[str, Partition] = OrderedDict()

    def partition(self, name: str) -> Partition:
        """With all that the store has by now."""
        found = self._partitions.get(name)
        if found is None:
            found = self._partitions[name] = Partition()
        self._partitions.move_to_end(name)
        added, found.mark = self._store.since(name, found.mark)
        for kept in added:
            found.add(kept)
        while len(self._partitions) > 1 and sum(map(len, self._partitions.values())) > MOST_VECTORS:
            self._partitions.popitem(last=False)
        return found
