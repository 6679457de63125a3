"""Answers to similar questions in Redis, which several gateways may share. Redis bounds and expires them. While it is
gone, it is left alone for some seconds at a time, and every question is a miss.

Keys begin with the embedding that read the questions, so that vectors of two are never compared:
`row:ID` an answer, `in:PARTITION` and `all` the ids by number and by time, `judgements:EPOCH` the labels by id,
`judged` their number in each partition, `state`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pennyweight.errors import UsageError
from pennyweight.serve.gateway.cache_store import BUSY_SECONDS, PAUSE
from pennyweight.serve.gateway.similar_store import FLUSH_SECONDS, MOST_WAITING, Kept, Label, checked, packed, sum_of

LOG = logging.getLogger("pennyweight.gateway")
PREFIX, EXACT = "pennyweight:similar:1", "pennyweight:"
SYNC_SECONDS = 0.5
# An answer gets its number and its place at once, so that no gateway reads past a smaller number that comes later.
PUT = """
local number = redis.call('INCR', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[4])
redis.call('ZADD', KEYS[3], number, ARGV[1])
redis.call('EXPIRE', KEYS[3], ARGV[4])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
return number
"""
# Unless another gateway is in a later epoch.
SET_STATE = """
local before = redis.call('GET', KEYS[1])
if before then
  local read, value = pcall(cjson.decode, before)
  if read and type(value) == 'table' and (tonumber(value['epoch']) or -1) > tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""


class RedisSimilarStore:
    """What the event loop asks of it, it knows: a thread writes, and fetches what other gateways decided."""

    def __init__(self, url: str, ttl: float, embedding: str) -> None:
        try:
            import redis
        except ImportError:
            raise UsageError("A cache in Redis needs its client: run `pip install redis`.") from None
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=BUSY_SECONDS, socket_connect_timeout=BUSY_SECONDS)
        self._name, self._ttl = f"{PREFIX}:{embedding}", max(1, int(ttl))
        self._put, self._set_state = self._redis.register_script(PUT), self._redis.register_script(SET_STATE)
        self._state: dict[str, Any] = {}
        self._labels: list[Label] = []  # those of the epoch, as they were at its last look
        self._labels_at: tuple[Any, Any] = (None, None)
        self._judged: dict[str, int] = {}
        self._count, self._not_before, self.failures = 0, 0.0, 0
        self._work: queue.Queue[Callable[[], Any] | threading.Event | None] = queue.Queue()
        self._fetch()
        self._thread = threading.Thread(target=self._run, name="similar cache", daemon=True)
        self._thread.start()

    # -- in the thread --

    def _run(self) -> None:
        fetched = time.monotonic()
        while True:
            work: Callable[[], Any] | threading.Event | None = threading.Event()
            with contextlib.suppress(queue.Empty):
                work = self._work.get(timeout=SYNC_SECONDS)
            if work is None:
                return
            if isinstance(work, threading.Event):
                work.set()
            else:
                self._try(work)
            if time.monotonic() - fetched > SYNC_SECONDS:
                self._fetch()
                fetched = time.monotonic()

    def _fetch(self) -> None:
        self._try(self._fetched)

    def _fetched(self) -> None:
        state = _object(self._redis.get(f"{self._name}:state") or b"{}")
        self._redis.zremrangebyscore(f"{self._name}:all", 0, time.time() - self._ttl)
        self._count = int(self._redis.zcard(f"{self._name}:all"))
        looked = (state.get("epoch"), state.get("looks"))
        if looked != self._labels_at:  # other gateways may have added some
            rows = self._redis.hvals(f"{self._name}:judgements:{state.get('epoch')}")
            found = [Label(**{**json.loads(row), "features": ()}) for row in rows]
            self._labels, self._labels_at = sorted(found, key=lambda label: label.begun), looked
        judged = self._redis.hgetall(f"{self._name}:judged")
        self._judged = {partition.decode(): int(count) for partition, count in judged.items()}
        self._state = state

    def _try(self, work: Callable[[], Any], otherwise: Any = None) -> Any:
        if time.monotonic() < self._not_before:
            return otherwise
        try:
            return work()
        except Exception as error:  # its client has many; none of them may end a request
            self.failures += 1
            self._not_before = time.monotonic() + PAUSE
            LOG.warning("Redis is gone for now, and no similar answer is looked for: %s", error)
            return otherwise

    def _later(self, work: Callable[[], Any]) -> None:
        if self._work.qsize() <= MOST_WAITING:  # else Redis does not keep up
            self._work.put(work)

    def flush(self) -> None:
        """Until all that was given is written."""
        done = threading.Event()
        self._work.put(done)
        done.wait(FLUSH_SECONDS)

    # -- beside the event loop --

    def since(self, partition: str, mark: int) -> tuple[list[Kept], int]:
        """What was added to a partition after the mark, and the new mark."""

        def read() -> tuple[list[Kept], int]:
            key = f"{self._name}:in:{partition}"
            found = self._redis.zrangebyscore(key, f"({mark}", "+inf", withscores=True)
            ids = [id.decode() for id, _ in found]
            rows = self._redis.mget([self._row(id) for id in ids]) if ids else []
            gone = [id for id, row in zip(ids, rows, strict=True) if row is None]
            if gone:
                self._redis.zrem(key, *gone)
            made = [_read(id, row) for id, row in zip(ids, rows, strict=True) if row is not None]
            return [kept for kept in made if kept is not None], int(found[-1][1]) if found else mark

        result: tuple[list[Kept], int] = self._try(read, ([], mark))
        return result

    def find(self, id: str) -> Kept | None:
        row = self._try(lambda: self._redis.get(self._row(id)))
        return None if row is None else _read(id, row)

    # -- for everybody --

    def put(self, kept: Kept) -> None:
        keys = [f"{PREFIX}:number", self._row(kept.id), f"{self._name}:in:{kept.partition}", f"{self._name}:all"]
        row = _written(kept)
        self._later(lambda: self._put(keys=keys, args=[kept.id, row, kept.made, self._ttl]))
        self._count += 1

    def count(self) -> int:
        return self._count

    def put_label(self, label: Label) -> None:
        key, row = f"{self._name}:judgements:{label.epoch}", json.dumps({**asdict(label), "features": ()})

        def write() -> None:
            if self._redis.hset(key, label.id, row):  # it is new
                self._redis.hincrby(f"{self._name}:judged", label.partition, 1)

        self._later(write)

    def judged(self) -> dict[str, int]:
        return self._judged

    def labels(self, epoch: int) -> list[Label]:
        return [label for label in self._labels if label.epoch == epoch]

    def state(self) -> dict[str, Any]:
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        self._state = state
        row = json.dumps(state)
        self._later(lambda: self._set_state(keys=[f"{self._name}:state"], args=[row, state.get("epoch", 0)]))

    async def close(self) -> None:
        self._work.put(None)
        await asyncio.to_thread(self._thread.join)
        self._redis.close()

    def _row(self, id: str) -> str:
        return f"{self._name}:row:{id}"

    # -- for `pw cache` --

    def all(self) -> list[Kept]:
        """By whichever embedding they were read."""
        keys = sorted(self._redis.scan_iter(match=f"{PREFIX}:*:row:*", count=1000))
        rows = [(key, self._redis.get(key)) for key in keys]
        found = [_read(key.decode().rpartition(":")[2], row) for key, row in rows if row is not None]
        return sorted((kept for kept in found if kept is not None), key=lambda kept: kept.made)

    def forget(self, id: str) -> bool:
        """Also as an answer to the equal request. Reads every answer that is kept."""
        rows = self._redis.scan_iter(match=f"{PREFIX}:*:row:*", count=1000)
        keys = [key for key in rows if key.endswith(f":row:{id}".encode())]
        for key in keys:
            kept = _read(id, self._redis.get(key) or b"")
            if kept is not None:
                self._forget_equal(kept.body)
            self._redis.delete(key)
        return bool(keys)

    def _forget_equal(self, body: bytes) -> None:
        """Answers of the exact cache (cache_store.py), which are strings."""
        for key in self._redis.scan_iter(match=f"{EXACT}*", count=1000, _type="string"):
            similar = key.startswith(PREFIX.encode())
            if not similar and (self._redis.get(key) or b"").partition(b"\n")[2] == body:
                self._redis.delete(key)


def _object(row: bytes) -> dict[str, Any]:
    """Empty where it is damaged: what was decided begins anew."""
    try:
        found = json.loads(row)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _written(kept: Kept) -> bytes:
    reading = packed(kept.reading)
    head = [kept.partition, kept.question, kept.content_type, kept.text, kept.made, len(reading)]
    told = sum_of(kept.question, reading, kept.content_type, kept.body, kept.text)
    return json.dumps([*head, told]).encode() + b"\n" + reading + kept.body


def _read(id: str, row: bytes) -> Kept | None:
    """None for a row that is not as it was written."""
    head, _, rest = row.partition(b"\n")
    try:
        partition, question, content_type, text, made, length, told = json.loads(head)
        blob, body, made = rest[:length], rest[length:], float(made)
    except (ValueError, TypeError) as error:
        LOG.warning("the kept answer %s is damaged (%s) and is not used", id, error)
        return None
    return checked(
        id, blob, told, partition=partition, question=question, content_type=content_type, body=body, text=text,
        made=made,
    )  # fmt: skip
