"""Stores of similar answers: one contract over all."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pennyweight.embedding import Reading
from pennyweight.errors import StorageError, UsageError
from pennyweight.processes import free_port
from pennyweight.serve.gateway.similar_opening import kept_in
from pennyweight.serve.gateway.similar_redis import RedisSimilarStore
from pennyweight.serve.gateway.similar_sqlite import SQLiteSimilarStore
from pennyweight.serve.gateway.similar_store import Kept, Label

READING = Reading(np.ones(4) / 2, ("how", "so"), np.full((2, 4), 0.5, np.float32))
Open = Callable[[], Any]


def kept(partition: str = "p", **changed: Any) -> Kept:
    made = Kept(
        uuid.uuid4().hex, partition, "How \N{SNOWMAN}?", READING, "application/json", b"{}\n\x00", "So.", time.time()
    )
    return replace(made, **changed)


@pytest.fixture(params=["sqlite", "redis"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store each time, as several gateways do."""
    if request.param == "sqlite":
        return lambda: SQLiteSimilarStore(tmp_path / "c", 3600.0)
    url, name = request.getfixturevalue("redis_url"), uuid.uuid4().hex
    return lambda: RedisSimilarStore(url, 3600.0, name)


def test_what_is_put_is_found_by_all(opened: Open) -> None:
    one, other = opened(), opened()
    first, second, third = kept(), kept(), kept("q")
    for each in (first, second, third):
        one.put(each)
    one.flush()
    found, mark = other.since("p", 0)
    assert [each.id for each in found] == [first.id, second.id]
    assert other.since("p", mark) == ([], mark)
    again = other.find(third.id)
    assert (again.question, again.body, again.text, again.partition) == (third.question, third.body, third.text, "q")
    assert again.reading.tokens == READING.tokens and np.allclose(again.reading.states, READING.states, atol=0.01)
    fourth = kept()
    one.put(fourth)
    one.flush()
    assert [each.id for each in other.since("p", mark)[0]] == [fourth.id]
    assert one.count() == 4 and other.find("none") is None


def test_what_is_forgotten_is_found_no_more(opened: Open) -> None:
    store, first, second = opened(), kept(), kept()
    store.put(first)
    store.put(second)
    store.flush()
    assert store.forget(first.id) and not store.forget(first.id) and not store.forget("none")
    assert store.find(first.id) is None and [each.id for each in store.since("p", 0)[0]] == [second.id]
    assert second.id in {each.id for each in store.all()} and first.id not in {each.id for each in store.all()}


def test_labels_and_decisions_outlive_a_restart(opened: Open) -> None:
    store = opened()
    first, second, before = a_label("a", 3, 1.0), a_label("b", 3, 2.0), a_label("c", 2, 0.0)
    for label in (first, second, before, replace(first, wrong=True)):
        store.put_label(label)
    store.set_state({"epoch": 3, "about": "x"})
    store.flush()
    assert store.state() == {"epoch": 3, "about": "x"}
    again = opened()
    assert again.state() == {"epoch": 3, "about": "x"}
    assert again.labels(3) == [replace(first, wrong=True), second] and again.labels(9) == []
    assert again.judged() == {"p": 3}


def a_label(id: str, epoch: int, begun: float) -> Label:
    """While it is judged."""
    return Label(id, epoch, begun, 0.9, "p", "words", "answer")


def test_redis_keeps_the_later_epoch_of_two_gateways(redis_url: str) -> None:
    name = uuid.uuid4().hex
    one, other = (RedisSimilarStore(redis_url, 60, name) for _ in range(2))
    one.set_state({"epoch": 5})
    one.flush()
    other.set_state({"epoch": 4})
    other.flush()
    other._fetch()
    assert other.state() == {"epoch": 5}


def test_redis_lets_answers_expire(redis_url: str) -> None:
    store = RedisSimilarStore(redis_url, 1, uuid.uuid4().hex)
    made = kept()
    store.put(made)
    store.flush()
    assert store.find(made.id) is not None
    time.sleep(1.3)
    store._fetch()
    assert store.find(made.id) is None and store.since("p", 0)[0] == [] and store.count() == 0


def test_an_embedding_never_sees_what_another_read(redis_url: str) -> None:
    one, other = (RedisSimilarStore(redis_url, 60, uuid.uuid4().hex) for _ in range(2))
    one.put(kept("shared"))
    one.flush()
    assert other.since("shared", 0)[0] == []


def test_what_is_damaged_in_redis_is_a_miss(redis_url: str) -> None:
    store = RedisSimilarStore(redis_url, 60, uuid.uuid4().hex)
    made = kept()
    store.put(made)
    store.flush()
    whole = store._redis.get(store._row(made.id))
    for row in (b"", b"[]", b"{}\n", whole[:-1], whole + b"x", whole.replace(b"So.", b"No.")):
        store._redis.set(store._row(made.id), row)
        assert store.find(made.id) is None and store.since("p", 0)[0] == []
    for state in (b"no json", b"[1]"):
        store._redis.set(f"{store._name}:state", state)
        assert RedisSimilarStore(redis_url, 60, store._name.rpartition(":")[2]).state() == {}
    again = RedisSimilarStore(redis_url, 60, store._name.rpartition(":")[2])
    again._redis.set(again._row(made.id), whole)
    assert again.failures == 0 and again.find(made.id) is not None, "what was decided begins anew, answers are there"


def test_a_redis_that_is_gone_is_a_miss_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    store = RedisSimilarStore(f"redis://127.0.0.1:{free_port('127.0.0.1')}/0", 60, "e")
    began = time.perf_counter()
    for _ in range(100):
        store.put(kept())
        assert store.find("x") is None and store.since("p", 7) == ([], 7) and store.state() == {}
    store.flush()
    asyncio.run(store.close())
    assert time.perf_counter() - began < 2 and store.failures == 1 and "Redis is gone" in caplog.text


def test_places_without_similar_answers_are_refused(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE t (x)").connection.commit()
    for place in (tmp_path / "none", tmp_path / "other"):
        with pytest.raises(UsageError, match=r"holds no similar answers|does not exist"):
            kept_in(str(place))
    with pytest.raises(StorageError, match="does not answer"):
        kept_in(f"redis://127.0.0.1:{free_port('127.0.0.1')}/0")


def test_a_file_of_any_name_is_found_and_none_is_made(tmp_path: Path) -> None:
    file = tmp_path / "c #2?x%41 ü.db"
    assert not SQLiteSimilarStore.is_in(file)
    store = SQLiteSimilarStore(file, 3600.0)
    asyncio.run(store.close())
    assert SQLiteSimilarStore.is_in(file)
    assert {one.name for one in tmp_path.iterdir()} <= {file.name, f"{file.name}-wal", f"{file.name}-shm"}
