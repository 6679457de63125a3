"""One contract over both stores of answers; a store that fails is one that misses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pennyweight.errors import StorageError, UsageError
from pennyweight.processes import free_port
from pennyweight.serve.gateway.cache_store import Entry, RedisStore, SQLiteStore, Store, open_store
from pennyweight.service import CachePolicy


def entry(body: bytes = b"answer") -> Entry:
    return Entry("application/json", body, time.time())


@asynccontextmanager
async def closing(store: Store) -> AsyncIterator[Store]:
    try:
        yield store
    finally:
        await store.close()


async def eventually(store: Store, key: str) -> Entry | None:
    """Once it is written."""
    for _ in range(200):
        if (found := await store.get(key)) is not None and not getattr(store, "_unwritten", None):
            return found
        await asyncio.sleep(0.01)
    return None


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "cache.db") if request.param == "sqlite" else request.getfixturevalue("redis_url")


def test_what_was_put_is_found_as_it_was(place: str) -> None:
    async def work() -> None:
        async with closing(open_store(CachePolicy(place, 60))) as store:
            assert await store.get("nothing") is None
            put = entry(b"data: {}\n\n\x00\xff")
            store.put("key", put)
            assert await eventually(store, "key") == put

    asyncio.run(work())


def test_what_is_too_old_is_gone(place: str) -> None:
    async def work() -> None:
        async with closing(open_store(CachePolicy(place, 1))) as store:
            store.put("short", entry())
            assert await eventually(store, "short") is not None
            await asyncio.sleep(1.2)
            assert await store.get("short") is None

    asyncio.run(work())


def test_a_file_keeps_answers_over_a_restart_and_stays_within_its_bound(tmp_path: Path) -> None:
    async def work() -> None:
        now = time.time()
        async with closing(SQLiteStore(tmp_path / "c.db", 1000, 10_000, clock=lambda: now)) as store:
            for number in range(8):
                now += 1
                store.put(f"k{number}", Entry("t", bytes(1000), now))
                assert await eventually(store, f"k{number}")
            now += 1
            assert await store.get("k0")  # used last
            for number in range(8, 12):
                now += 1
                store.put(f"k{number}", Entry("t", bytes(1000), now))
                assert await eventually(store, f"k{number}")
            kept = [n for n in range(12) if await store.get(f"k{n}")]
            assert len(kept) <= 10 and {0, 10, 11} <= set(kept) and 1 not in kept
        async with closing(SQLiteStore(tmp_path / "c.db", 1000, 10_000, clock=lambda: now)) as again:
            assert await again.get("k11")

    asyncio.run(work())


def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path: Path) -> None:
    async def work() -> None:
        async with closing(SQLiteStore(tmp_path / "c.db", 1000, 2**30)) as store:
            assert isinstance(store, SQLiteStore)
            store.put("small", entry())
            assert await eventually(store, "small")
            pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
            store._writer.execute(f"PRAGMA max_page_count = {pages + 1}")  # as far as SQLite can tell, the disk is full
            for number in range(20):
                store.put(f"large{number}", entry(bytes(20_000)))
            for _ in range(200):
                if store.failures:
                    break
                await asyncio.sleep(0.01)
            assert store.failures and await store.get("small") is not None
            store._writer.execute(f"PRAGMA max_page_count = {10 * pages + 1000}")
            store.put("after", entry())
            assert await eventually(store, "after")

    asyncio.run(work())


def test_a_redis_that_is_gone_is_left_alone_for_a_while() -> None:
    async def work() -> None:
        async with closing(RedisStore(f"redis://127.0.0.1:{free_port('127.0.0.1')}/0", 60)) as store:
            assert await store.get("key") is None
            began = time.perf_counter()
            for _ in range(100):
                assert await store.get("key") is None
                store.put("key", entry())
            assert time.perf_counter() - began < 0.2
            assert isinstance(store, RedisStore) and store.failures == 1

    asyncio.run(work())


def test_places_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="redis://"):
        open_store(CachePolicy("http://x"))
    (tmp_path / "no.db").write_text("this is no database, and long enough to be seen as none" * 100)
    with pytest.raises(StorageError, match=r"no\.db"):
        open_store(CachePolicy(str(tmp_path / "no.db")))


def test_what_cannot_be_read_is_a_miss(place: str) -> None:
    async def work() -> None:
        async with closing(open_store(CachePolicy(place, 60))) as store:
            store.put("key", entry(b'{"whole": 1}'))
            assert await eventually(store, "key") is not None
            await asyncio.sleep(0.2)
            if isinstance(store, SQLiteStore):
                store._writer.execute("UPDATE answers_2 SET body = substr(body, 1, 4)")
                assert await store.get("key") is None
                return
            assert isinstance(store, RedisStore)
            for value in (b"no head", b'["application/json", 1.0, 12]\n{"half', b"[]\n", b"{}"):
                await store._redis.set("pennyweight:key", value)
                assert await store.get("key") is None

    asyncio.run(work())
