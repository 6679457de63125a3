"""The nearest questions of a partition: exact up to `EXACT`, by usearch above. Held in memory, filled from the store,
and kept up with what other gateways add to it."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.embedding import Reading
from pennyweight.errors import UsageError
from pennyweight.serve.gateway.similar_store import Kept, SimilarStore, packed, unpacked
from pennyweight.similarity.differences import Question

LOG = logging.getLogger("pennyweight.gateway")
EXACT = 20_000
MOST_VECTORS = 400_000  # of all partitions together
SEARCHED = 8  # times as many as are asked for, because some are dead
LEAST_DEAD = 64
STEP = 256  # vectors by which a matrix grows
ADDED_AT_ONCE = 4  # to the approximate index, beside a search: a millisecond each


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
        self._covered = 0  # places that are in the approximate index; the others are compared one by one
        self._building: Future[Any] | None = None
        self._asked_to_build = False

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
        self._cover()
        pairs = []
        if self._approximate is not None:
            found = self._approximate.search(asked, SEARCHED * count)
            pairs = [(int(key), float(self._vectors[int(key)] @ asked)) for key in found.keys]
        rest = slice(self._covered, len(self.ids))
        cosines = np.where(living[rest], self._vectors[rest] @ asked, -np.inf)
        best = np.argpartition(-cosines, count - 1)[:count] if len(cosines) > count else np.arange(len(cosines))
        pairs += [(self._covered + int(place), float(cosines[place])) for place in best]
        return sorted((pair for pair in pairs if living[pair[0]]), key=lambda pair: -pair[1])[:count]

    def _cover(self) -> None:
        """The index of a large partition takes half a minute to build: in a thread, while the partition goes on as it
        was. What was added since is added a few at a time."""
        count = len(self.ids)
        if not self._asked_to_build and count > EXACT:
            self._asked_to_build = True
            assert self._vectors is not None
            self._building = in_thread(approximate, self._vectors[:count].copy())
        if self._building is not None and self._building.done():
            try:
                self._approximate = self._building.result()
                self._covered = len(self._approximate)
            except Exception as error:  # without usearch, or memory: exact, and slower
                LOG.warning("%d similar questions are compared one by one: %s", count, error)
            self._building = None
        if self._approximate is not None and self._covered < count:
            assert self._vectors is not None
            places = np.arange(self._covered, min(count, self._covered + ADDED_AT_ONCE))
            self._approximate.add(places, self._vectors[places], threads=1)
            self._covered += len(places)


def in_thread(work: Callable[..., Any], *given: Any) -> Future[Any]:
    """Ends with the process, finished or not."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work(*given))
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, name="similar index", daemon=True).start()
    return done


def approximate(vectors: NDArray[np.float32]) -> Any:
    """A graph index (HNSW: Malkov & Yashunin 2016, arxiv.org/abs/1603.09320)."""
    try:
        from usearch.index import Index
    except ImportError:
        raise UsageError(
            f"More than {EXACT} similar questions need usearch: run `pip install pennyweight[similar]`."
        ) from None
    made = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    made.add(np.arange(len(vectors)), vectors, threads=1)
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
