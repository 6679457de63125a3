"""Where answers are kept: a SQLite file, or Redis. A stored answer is its bytes as they were sent; a store's failure
counts as a miss."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pennyweight.errors import StorageError, UsageError
from pennyweight.service import CachePolicy

LOG = logging.getLogger("pennyweight.gateway")
BUSY_SECONDS = 0.2
SWEEP_SHARE = 0.9  # of the bound that is left after a sweep
PAUSE = 5.0  # seconds that a store is left alone after it failed


@dataclass(frozen=True)
class Entry:
    content_type: str
    body: bytes
    made: float  # seconds since the epoch

    @property
    def age(self) -> float:
        return max(0.0, time.time() - self.made)


class Store(Protocol):
    """Where entries are. `get` and `put` raise nothing."""

    async def get(self, key: str) -> Entry | None: ...
    def put(self, key: str, entry: Entry) -> None: ...
    async def close(self) -> None: ...


def open_store(policy: CachePolicy) -> Store:
    """A Redis server where the place is its URL, else a file."""
    place, ttl = policy.place, policy.ttl_seconds
    if place.startswith(("redis://", "rediss://", "unix://")):
        return RedisStore(place, ttl)
    if "://" in place:
        raise UsageError(f"--cache {place} is neither a file nor redis://….")
    return SQLiteStore(Path(place), ttl, policy.max_bytes)


SIZE_OF_ALL = "SELECT coalesce(sum(length(body)), 0) FROM answers_2"


def connected(file: Path) -> sqlite3.Connection:
    """For one reader or writer of a file that others use, too."""
    made = sqlite3.connect(file, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("PRAGMA synchronous=NORMAL")
    return made


class SQLiteStore:
    """Read on the event loop (a look by primary key takes some ten microseconds), written by a thread of its own."""

    def __init__(self, file: Path, ttl: float, bound: int, clock: Callable[[], float] = time.time) -> None:
        self._ttl, self._bound, self._clock = ttl, bound, clock
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._reader = connected(file)
            self._reader.execute("DROP TABLE IF EXISTS answers")  # of an earlier release, without sizes
            self._reader.execute(
                "CREATE TABLE IF NOT EXISTS answers_2 (key TEXT PRIMARY KEY, type TEXT, body BLOB, made REAL,"
                " used REAL, size INTEGER) WITHOUT ROWID"
            )
            self._reader.execute("CREATE INDEX IF NOT EXISTS by_use ON answers_2 (used)")
            self._writer = connected(file)
            self._bytes = int(
                self._reader.execute("SELECT coalesce(sum(length(body)), 0) FROM answers_2").fetchone()[0]
            )
        except sqlite3.Error as error:
            raise StorageError(f"The cache {file} cannot be used ({error}): give another file with --cache.") from None
        self.failures = 0
        self._unwritten: dict[str, Entry] = {}
        self._work: queue.SimpleQueue[tuple[str, Entry | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="cache", daemon=True)
        self._thread.start()

    async def get(self, key: str) -> Entry | None:
        if (fresh := self._unwritten.get(key)) is not None:
            return fresh
        try:
            row = self._reader.execute("SELECT type, body, made, size FROM answers_2 WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._fail(error)
            return None
        if row is None or self._clock() - row[2] > self._ttl:
            return None
        content_type, body, made, size = row
        if not isinstance(content_type, str) or not isinstance(body, bytes) or len(body) != size:
            return None  # not as it was written
        self._work.put((key, None))
        return Entry(content_type, body, made)

    def put(self, key: str, entry: Entry) -> None:
        self._unwritten[key] = entry
        self._work.put((key, entry))

    async def close(self) -> None:
        self._work.put(None)
        await asyncio.to_thread(self._thread.join)
        self._reader.close()
        self._writer.close()

    # -- in the thread --

    def _write(self) -> None:
        while (item := self._work.get()) is not None:
            try:
                self._apply(*item)
            except sqlite3.Error as error:  # a full disk, say: answers are still given
                self._fail(error)
            if item[1] is not None:
                self._unwritten.pop(item[0], None)

    def _apply(self, key: str, entry: Entry | None) -> None:
        now = self._clock()
        if entry is None:
            self._writer.execute("UPDATE answers_2 SET used = ? WHERE key = ?", (now, key))
            return
        old = self._writer.execute("SELECT length(body) FROM answers_2 WHERE key = ?", (key,)).fetchone()
        self._writer.execute(
            "INSERT OR REPLACE INTO answers_2 VALUES (?, ?, ?, ?, ?, ?)",
            (key, entry.content_type, entry.body, entry.made, now, len(entry.body)),
        )
        self._bytes += len(entry.body) - (old[0] if old else 0)
        if self._bytes > self._bound:
            self._sweep()

    def _sweep(self) -> None:
        """What is out of date goes, then what was not used for longest."""
        self._writer.execute("DELETE FROM answers_2 WHERE made < ?", (self._clock() - self._ttl,))
        left = int(self._writer.execute(SIZE_OF_ALL).fetchone()[0])
        doomed = []
        for key, size in self._writer.execute("SELECT key, length(body) FROM answers_2 ORDER BY used"):
            if left <= SWEEP_SHARE * self._bound:
                break
            doomed.append((key,))
            left -= size
        self._writer.executemany("DELETE FROM answers_2 WHERE key = ?", doomed)
        self._bytes = left

    def _fail(self, error: sqlite3.Error) -> None:
        self.failures += 1
        if self.failures == 1 or self.failures % 1000 == 0:
            LOG.warning("the cache fails (%d times so far): %s", self.failures, error)


class RedisStore:
    """Bounded and expired by Redis itself. While it is gone, it is left alone for some seconds at a time."""

    def __init__(self, url: str, ttl: float) -> None:
        try:
            from redis import asyncio as redis
        except ImportError:
            raise UsageError("A cache in Redis needs its client: run `pip install redis`.") from None
        self._redis = redis.from_url(url, socket_timeout=BUSY_SECONDS, socket_connect_timeout=BUSY_SECONDS)
        self._ttl = max(1, int(ttl))
        self._tasks: set[asyncio.Task[None]] = set()
        self._not_before = 0.0
        self.failures = 0

    async def get(self, key: str) -> Entry | None:
        if time.monotonic() < self._not_before:
            return None
        try:
            value: Any = await self._redis.get(f"pennyweight:{key}")
        except Exception as error:  # its client has many; none of them may end a request
            self._fail(error)
            return None
        if value is None:
            return None
        return _entry(value)

    def put(self, key: str, entry: Entry) -> None:
        if time.monotonic() < self._not_before:
            return
        task = asyncio.ensure_future(self._set(key, entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _set(self, key: str, entry: Entry) -> None:
        value = json.dumps([entry.content_type, entry.made, len(entry.body)]).encode() + b"\n" + entry.body
        try:
            await self._redis.set(f"pennyweight:{key}", value, ex=self._ttl)
        except Exception as error:  # as above
            self._fail(error)

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    def _fail(self, error: Exception) -> None:
        self.failures += 1
        self._not_before = time.monotonic() + PAUSE
        LOG.warning("Redis is gone for now: %s", error)


def _entry(value: bytes) -> Entry | None:
    """What another program wrote, or half of an answer, is a miss."""
    head, _, body = value.partition(b"\n")
    try:
        content_type, made, size = json.loads(head)
        made = float(made)
    except (ValueError, TypeError):
        return None
    return Entry(content_type, body, made) if isinstance(content_type, str) and len(body) == size else None
