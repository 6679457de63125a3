"""What is kept of answers to similar questions, beside those to equal ones: rows with the question, its reading and the
whole answer, labels of would-be hits, and what was decided on them. A store is one file each: similar_sqlite.py,
similar_redis.py."""

from __future__ import annotations

import json
import logging
import time
import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pennyweight.embedding import Reading

LOG = logging.getLogger("pennyweight.gateway")
SCALE = 127  # states are kept as 8-bit numbers of this
MOST_WAITING = 10_000  # rows to be written
FLUSH_SECONDS = 10.0


@dataclass(frozen=True)
class Kept:
    """A question that was answered. `id` names the answer to clients."""

    id: str
    partition: str
    question: str
    reading: Reading
    content_type: str
    body: bytes
    text: str
    made: float

    @property
    def age(self) -> float:
        return max(0.0, time.time() - self.made)


@dataclass(frozen=True)
class Label:
    """Of a would-be hit: whether the kept answer was `wrong`; None while it is being judged, since `begun` (seconds
    since 1970). `words` and `answer` are equal where the question and the kept answer are; `features` are what the gate
    has seen of both questions, which only a file keeps."""

    id: str
    epoch: int
    begun: float
    score: float
    partition: str
    words: str
    answer: str
    features: tuple[float, ...] = ()
    wrong: bool | None = None


class SimilarStore(Protocol):
    """Nothing but the opening raises; what fails is a miss. What is written may take some milliseconds to be found.
    `since` and `find` may wait for a disk or a network, and are called beside the event loop; all others return at
    once."""

    def since(self, partition: str, mark: int) -> tuple[list[Kept], int]:
        """What was added to a partition after the mark, and the new mark."""
        ...

    def find(self, id: str) -> Kept | None: ...
    def put(self, kept: Kept) -> None: ...
    def forget(self, id: str) -> bool: ...
    def count(self) -> int: ...
    def flush(self) -> None: ...
    def put_label(self, label: Label) -> None: ...
    def labels(self, epoch: int) -> list[Label]:
        """In the order in which judging began."""
        ...

    def judged(self) -> dict[str, int]:
        """Labels of each partition, of all epochs."""
        ...

    def state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...
    async def close(self) -> None: ...


def sum_of(question: str, reading: bytes, content_type: str, body: bytes, text: str) -> int:
    return zlib.crc32(b"\n".join([question.encode(), reading, content_type.encode(), body, text.encode()]))


def checked(id: str, blob: bytes, told: object, **fields: Any) -> Kept | None:
    """A row of a store; None where it is not as it was written. `blob` is its packed reading, `told` its check sum."""
    try:
        if told != sum_of(fields["question"], blob, fields["content_type"], fields["body"], fields["text"]):
            raise ValueError("its check sum is wrong")
        return Kept(id, reading=unpacked(blob), **fields)
    except (ValueError, TypeError, AttributeError) as error:
        LOG.warning("the kept answer %s is damaged (%s) and is not used", id, error)
        return None


def packed(reading: Reading) -> bytes:
    """The vector in 16-bit numbers, the tokens' states in 8-bit ones."""
    head = json.dumps([list(reading.tokens), len(reading.vector)], ensure_ascii=False).encode()
    states = np.clip(np.rint(reading.states * SCALE), -SCALE, SCALE).astype(np.int8)
    body = head + b"\n" + reading.vector.astype(np.float16).tobytes() + states.tobytes()
    return body


def unpacked(blob: bytes) -> Reading:
    """Raises `ValueError` for what is damaged."""
    head, _, rest = blob.partition(b"\n")
    tokens, width = json.loads(head)
    vector = np.frombuffer(rest[: 2 * width], np.float16).astype(np.float64)
    states = np.frombuffer(rest[2 * width :], np.int8).reshape(len(tokens), width).astype(np.float32) / SCALE
    return Reading(vector, tuple(tokens), np.asarray(states, np.float32))
