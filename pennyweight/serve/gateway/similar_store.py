"""Where answers to similar questions are kept, beside those to equal ones: rows with the question, its reading and the
whole answer, labels of would-be hits, and what was decided on them. A store's failure counts as a miss."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pennyweight.embedding import Reading
from pennyweight.errors import StorageError

LOG = logging.getLogger("pennyweight.gateway")
SCALE = 127  # states are kept as 8-bit numbers of this
BUSY_SECONDS = 0.2


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
    """Of a would-be hit: the gate's score, and whether the kept answer was wrong."""

    score: float
    wrong: bool
    epoch: int = 0


class SimilarStore(Protocol):
    """Nothing but `open` raises."""

    def since(self, partition: str, mark: int) -> tuple[list[Kept], int]:
        """What was added to a partition after the mark, and the new mark."""
        ...

    def find(self, id: str) -> Kept | None: ...
    def put(self, kept: Kept) -> None: ...
    def forget(self, id: str) -> bool: ...
    def count(self) -> int: ...
    def add_label(self, label: Label) -> None: ...
    def labels(self, epoch: int) -> list[Label]: ...
    def state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


def packed(reading: Reading) -> bytes:
    """The vector in 16-bit numbers, the tokens' states in 8-bit ones, with a check sum."""
    head = json.dumps([list(reading.tokens), len(reading.vector)], ensure_ascii=False).encode()
    states = np.clip(np.rint(reading.states * SCALE), -SCALE, SCALE).astype(np.int8)
    body = head + b"\n" + reading.vector.astype(np.float16).tobytes() + states.tobytes()
    return zlib.crc32(body).to_bytes(4, "big") + body


def unpacked(blob: bytes) -> Reading:
    """Raises `ValueError` for what is damaged."""
    body = blob[4:]
    if zlib.crc32(body) != int.from_bytes(blob[:4], "big"):
        raise ValueError("its check sum is wrong")
    head, _, rest = body.partition(b"\n")
    tokens, width = json.loads(head)
    vector = np.frombuffer(rest[: 2 * width], np.float16).astype(np.float64)
    states = np.frombuffer(rest[2 * width :], np.int8).reshape(len(tokens), width).astype(np.float32) / SCALE
    return Reading(vector, tuple(tokens), np.asarray(states, np.float32))


COLUMNS = "number, id, partition, question, reading, type, body, text, made"


class SQLiteSimilarStore:
    """In the file of the exact cache, which several gateways may share."""

    def __init__(self, file: Path, ttl: float) -> None:
        self._ttl, self.failures = ttl, 0
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(file, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS similar_1 (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, "
                "partition TEXT, question TEXT, reading BLOB, type TEXT, body BLOB, text TEXT, made REAL)"
            )
            self._file.execute("CREATE INDEX IF NOT EXISTS similar_by_partition ON similar_1 (partition, number)")
            self._file.execute("CREATE TABLE IF NOT EXISTS similar_labels_1 (epoch INTEGER, score REAL, wrong INTEGER)")
            self._file.execute("CREATE TABLE IF NOT EXISTS similar_state_1 (name TEXT PRIMARY KEY, value TEXT)")
        except sqlite3.Error as error:
            raise StorageError(f"The cache {file} cannot be used ({error}): give another file with --cache.") from None

    def _do(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._file.execute(statement, values).fetchall()
        except sqlite3.Error as error:  # a full disk, say: answers are still given
            self.failures += 1
            if self.failures == 1 or self.failures % 1000 == 0:
                LOG.warning("the cache of similar answers fails (%d times so far): %s", self.failures, error)
            return []

    def since(self, partition: str, mark: int) -> tuple[list[Kept], int]:
        rows = self._do(
            f"SELECT {COLUMNS} FROM similar_1 WHERE partition = ? AND number > ? AND made > ? ORDER BY number",
            (partition, mark, time.time() - self._ttl),
        )
        return [kept for kept in map(self._kept, rows) if kept], rows[-1][0] if rows else mark

    def find(self, id: str) -> Kept | None:
        rows = self._do(f"SELECT {COLUMNS} FROM similar_1 WHERE id = ? AND made > ?", (id, time.time() - self._ttl))
        return self._kept(rows[0]) if rows else None

    def all(self) -> list[Kept]:
        return [kept for kept in map(self._kept, self._do(f"SELECT {COLUMNS} FROM similar_1 ORDER BY number")) if kept]

    def put(self, kept: Kept) -> None:
        self._do(
            "INSERT OR REPLACE INTO similar_1 (id, partition, question, reading, type, body, text, made) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(kept.id, kept.partition, kept.question, packed(kept.reading)),
                *(kept.content_type, kept.body, kept.text, kept.made),
            ),
        )

    def forget(self, id: str) -> bool:
        return bool(self._do("DELETE FROM similar_1 WHERE id = ? RETURNING number", (id,)))

    def sweep(self, most_bytes: int) -> None:
        """What is out of date goes, then the oldest, until all answers have at most this many bytes."""
        self._do("DELETE FROM similar_1 WHERE made <= ?", (time.time() - self._ttl,))
        found = self._do("SELECT coalesce(sum(length(body) + length(reading)), 0) FROM similar_1")
        left = found[0][0] if found else 0
        if left <= most_bytes:
            return
        sized = "SELECT number, length(body) + length(reading) FROM similar_1 ORDER BY number"
        for number, size in self._do(sized):
            if left <= 0.9 * most_bytes:
                break
            self._do("DELETE FROM similar_1 WHERE number = ?", (number,))
            left -= size

    def count(self) -> int:
        found = self._do("SELECT count(*) FROM similar_1")
        return int(found[0][0]) if found else 0

    def add_label(self, label: Label) -> None:
        self._do("INSERT INTO similar_labels_1 VALUES (?, ?, ?)", (label.epoch, label.score, int(label.wrong)))

    def labels(self, epoch: int) -> list[Label]:
        rows = self._do("SELECT score, wrong FROM similar_labels_1 WHERE epoch = ?", (epoch,))
        return [Label(score, bool(wrong), epoch) for score, wrong in rows]

    def state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._value("state") or "{}")
        except ValueError:
            return {}
        return found

    def set_state(self, state: dict[str, Any]) -> None:
        self._set("state", json.dumps(state))

    def embedding(self) -> str:
        """That the questions were read by; empty in a new store."""
        return self._value("embedding")

    def set_embedding(self, name: str) -> None:
        self._set("embedding", name)

    def _value(self, name: str) -> str:
        rows = self._do("SELECT value FROM similar_state_1 WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else ""

    def _set(self, name: str, value: str) -> None:
        self._do("INSERT OR REPLACE INTO similar_state_1 VALUES (?, ?)", (name, value))

    def clear(self) -> None:
        """For another embedding: nothing that was kept by the old one can be compared."""
        for table in ("similar_1", "similar_labels_1", "similar_state_1"):
            self._do(f"DELETE FROM {table}")

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def _kept(row: tuple[Any, ...]) -> Kept | None:
        """None for a row that is not as it was written."""
        _, id, partition, question, blob, content_type, body, text, made = row
        try:
            reading = unpacked(blob)
        except (ValueError, TypeError) as error:
            LOG.warning("the kept answer %s is damaged (%s) and is not used", id, error)
            return None
        return Kept(id, partition, question, reading, content_type, body, text, made)
