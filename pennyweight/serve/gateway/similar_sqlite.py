"""Answers to similar questions in the SQLite file of the exact cache. A failure counts as a miss."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import Any

from pennyweight.errors import StorageError
from pennyweight.serve.gateway.cache_store import connected
from pennyweight.serve.gateway.similar_store import FLUSH_SECONDS, MOST_WAITING, Kept, Label, checked, packed, sum_of

LOG = logging.getLogger("pennyweight.gateway")
COLUMNS = "number, id, partition, question, reading, type, body, text, made, sum"
INSERT = (
    "INSERT OR REPLACE INTO similar_1 (id, partition, question, reading, type, body, text, made, sum, size) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS similar_1 (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, partition TEXT, "
    "question TEXT, reading BLOB, type TEXT, body BLOB, text TEXT, made REAL, sum INTEGER, size INTEGER)",
    "CREATE INDEX IF NOT EXISTS similar_by_partition ON similar_1 (partition, number)",
    "CREATE TABLE IF NOT EXISTS similar_labels_3 (id TEXT PRIMARY KEY, epoch INTEGER, begun REAL, score REAL, "
    "partition TEXT, words TEXT, answer TEXT, features TEXT, wrong INTEGER)",
    "CREATE INDEX IF NOT EXISTS similar_labels_by_epoch ON similar_labels_3 (epoch, begun)",
    "DROP TABLE IF EXISTS similar_labels_2",  # which did not know what labels have in common
    "CREATE TABLE IF NOT EXISTS similar_state_1 (name TEXT PRIMARY KEY, value TEXT)",
)
LABELS = "SELECT id, epoch, begun, score, partition, words, answer, features, wrong FROM similar_labels_3"
PUT_LABEL = "INSERT OR REPLACE INTO similar_labels_3 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
SWEPT_EVERY, SWEPT_TO = 256, 0.9  # answers; share of the bytes that is left


class SQLiteSimilarStore:
    """In the file of the exact cache, which several gateways may share. Answers are read beside the event loop, what
    was decided on it (by primary key); all is written by a thread of its own."""

    def __init__(self, file: Path, ttl: float, most_bytes: int = 2**30) -> None:
        self._ttl, self._most_bytes, self.failures = ttl, most_bytes, 0
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._reader, self._writer = connected(file), connected(file)
            for statement in SCHEMA:
                self._reader.execute(statement)
            whole = self._reader.execute("SELECT count(*), coalesce(sum(size), 0) FROM similar_1").fetchone()
            self._count, self._bytes = int(whole[0]), int(whole[1])
        except sqlite3.Error as error:
            raise StorageError(f"The cache {file} cannot be used ({error}): give another file with --cache.") from None
        self._work: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="similar cache", daemon=True)
        self._thread.start()

    @staticmethod
    def is_in(file: Path) -> bool:
        """Without changing the file."""
        try:
            with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as found:
                named = "SELECT count(*) FROM sqlite_master WHERE name = 'similar_1'"
                return bool(found.execute(named).fetchone()[0])
        except sqlite3.Error:
            return False

    # -- in the thread --

    def _write(self) -> None:
        puts = 0
        while (item := self._work.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._do(*item, through=self._writer)
                if item[0] == INSERT:
                    puts, self._count, self._bytes = puts + 1, self._count + 1, self._bytes + item[1][-1]
                if puts >= SWEPT_EVERY or self._bytes > self._most_bytes:
                    puts = 0
                    self._sweep()
            except Exception as error:  # one row that cannot be written ends no other's
                LOG.warning("a similar answer was not written: %s", error)

    def _sweep(self) -> None:
        """What is out of date goes, then the oldest, until all have at most the bytes that they may have."""
        self._do("DELETE FROM similar_1 WHERE made <= ?", (time.time() - self._ttl,), through=self._writer)
        sizes = self._do("SELECT number, size FROM similar_1", through=self._writer)
        left = sum(size for _, size in sizes)
        if left > self._most_bytes:
            for number, size in sorted(sizes):
                if left <= SWEPT_TO * self._most_bytes:
                    break
                self._do("DELETE FROM similar_1 WHERE number = ?", (number,), through=self._writer)
                left -= size
        self._bytes = left
        self._count = self._counted(self._writer)

    def _counted(self, through: sqlite3.Connection) -> int:
        found = self._do("SELECT count(*) FROM similar_1", through=through)
        return int(found[0][0]) if found else 0

    def _later(self, statement: str, values: tuple[Any, ...]) -> None:
        self._work.put((statement, values))

    def flush(self) -> None:
        """Until all that was given is written."""
        done = threading.Event()
        self._work.put(done)
        done.wait(FLUSH_SECONDS)

    # -- on the event loop --

    def _do(
        self, statement: str, values: tuple[Any, ...] = (), *, through: sqlite3.Connection | None = None
    ) -> list[Any]:
        try:
            return (through or self._reader).execute(statement, values).fetchall()
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
        if self._work.qsize() > MOST_WAITING:  # the disk does not keep up
            return
        reading = packed(kept.reading)
        size = len(kept.body) + len(reading) + len(kept.text) + len(kept.question)
        self._later(
            INSERT,
            (
                *(kept.id, kept.partition, kept.question, reading, kept.content_type, kept.body, kept.text, kept.made),
                *(sum_of(kept.question, reading, kept.content_type, kept.body, kept.text), size),
            ),
        )

    def forget(self, id: str) -> bool:
        """Also as an answer to the equal request."""
        kept = self.find(id)
        if kept is not None:
            self._do("DELETE FROM answers_2 WHERE body = ?", (kept.body,))
        return bool(self._do("DELETE FROM similar_1 WHERE id = ? RETURNING number", (id,)))

    def count(self) -> int:
        return self._count

    def put_label(self, label: Label) -> None:
        self._later(PUT_LABEL, (*astuple(label)[:7], json.dumps(label.features), label.wrong))

    def labels(self, epoch: int) -> list[Label]:
        return list(map(_label, self._do(f"{LABELS} WHERE epoch = ? ORDER BY begun", (epoch,))))

    def all_labels(self) -> list[Label]:
        """Of all epochs."""
        return list(map(_label, self._do(f"{LABELS} ORDER BY begun")))

    def judged(self) -> dict[str, int]:
        return dict(self._do("SELECT partition, count(*) FROM similar_labels_3 GROUP BY partition"))

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

    def gate(self) -> str:
        """That was fitted to this traffic, as JSON; empty where none was."""
        return self._value("gate")

    def set_gate(self, gate: str) -> None:
        self._set("gate", gate)

    def _value(self, name: str) -> str:
        rows = self._do("SELECT value FROM similar_state_1 WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else ""

    def _set(self, name: str, value: str) -> None:
        self._later("INSERT OR REPLACE INTO similar_state_1 VALUES (?, ?)", (name, value))

    def clear(self) -> None:
        """For another embedding: nothing that was kept by the old one can be compared."""
        for table in ("similar_1", "similar_labels_3", "similar_state_1"):
            self._do(f"DELETE FROM {table}")
        self._count = 0

    async def close(self) -> None:
        self._work.put(None)
        await asyncio.to_thread(self._thread.join)
        self._reader.close()
        self._writer.close()

    @staticmethod
    def _kept(row: tuple[Any, ...]) -> Kept | None:
        _, id, partition, question, blob, content_type, body, text, made, told = row
        return checked(
            id, blob, told, partition=partition, question=question, content_type=content_type, body=body, text=text,
            made=made,
        )  # fmt: skip


def _label(row: tuple[Any, ...]) -> Label:
    id, epoch, begun, score, partition, words, answer, features, wrong = row
    seen = tuple(json.loads(features))
    return Label(id, epoch, begun, score, partition, words, answer, seen, None if wrong is None else bool(wrong))
