"""The cache's two stages: what is looked up, what is kept, and under which name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece
from pennyweight.serve.gateway.cache_store import Entry
from pennyweight.serve.gateway.exact_cache import Keep, Lookup, key_of, may_be_stored
from pennyweight.serve.gateway.flights import Flights
from tests.serve.gateway.asks import a_pool, an_ask


class Memory:
    """A store of nothing but a dict."""

    def __init__(self) -> None:
        self.held: dict[str, Entry] = {}

    async def get(self, key: str) -> Entry | None:
        return self.held.get(key)

    def put(self, key: str, entry: Entry) -> None:
        self.held[key] = entry

    async def close(self) -> None: ...


class Engine:
    """A stage that answers, and counts how often."""

    def __init__(self, *, whole: bool = True, status: int = 200) -> None:
        self.asked, self._whole, self._status = 0, whole, status

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        self.asked += 1
        yield Head(self._status, "application/json")
        yield b"an "
        await asyncio.sleep(0)
        yield b"answer"
        yield Outcome(1.0, 2, whole=self._whole)


def stages(engine: Engine, store: Memory) -> Lookup:
    counter = Counter("cache", "", ["result"], registry=CollectorRegistry())
    return Lookup(Flights(Keep(engine, store)), store, counter)


async def answer(stage: Lookup, **body: Any) -> tuple[str, bytes]:
    """What the header says of the cache, and the body."""
    pieces = [piece async for piece in stage(an_ask(**{"temperature": 0, **body}))]
    head = pieces[0]
    assert isinstance(head, Head) and isinstance(pieces[-1], Outcome)
    return head.headers.get("x-pennyweight-cache", ""), b"".join(p for p in pieces if isinstance(p, bytes))


def test_an_equal_request_is_answered_without_the_engine() -> None:
    async def work() -> None:
        engine, store = Engine(), Memory()
        stage = stages(engine, store)
        assert await answer(stage) == ("miss", b"an answer")
        assert await answer(stage) == ("hit", b"an answer")
        assert await answer(stage, prompt="another") == ("miss", b"an answer")
        assert await answer(stage, temperature=1) == ("", b"an answer")
        assert engine.asked == 3

    asyncio.run(work())


def test_equal_requests_at_once_share_one_answer_and_keep_it_once() -> None:
    async def work() -> None:
        engine, store = Engine(), Memory()
        stage = stages(engine, store)
        found = await asyncio.gather(*(answer(stage) for _ in range(5)))
        assert sorted(found) == [("miss", b"an answer"), *[("shared", b"an answer")] * 4]
        assert engine.asked == 1 and [entry.body for entry in store.held.values()] == [b"an answer"]

    asyncio.run(work())


@pytest.mark.parametrize("engine", [Engine(whole=False), Engine(status=400)], ids=["cut", "refused"])
def test_what_is_no_whole_answer_is_not_kept(engine: Engine) -> None:
    async def work() -> None:
        store = Memory()
        await answer(stages(engine, store))
        assert store.held == {}

    asyncio.run(work())


def test_a_pool_that_others_replaced_meanwhile_keeps_nothing() -> None:
    async def work() -> None:
        store = Memory()
        async for _ in Keep(Engine(), store)(an_ask(key="k", pool=a_pool(closed=True))):
            pass
        assert store.held == {}

    asyncio.run(work())


def test_keys_tell_apart_what_differs_and_only_that() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}
    own = key_of("a", "d", "/v1", body)
    assert own == key_of("a", "d", "/v1", {"temperature": 0, "user": "x", "stop": None, **body})
    assert own == key_of("a", "d", "/v1", {**body, "temperature": 0.0, "stream": False})
    others = [
        key_of("b", "d", "/v1", body),
        key_of("a", "e", "/v1", body),
        key_of("a", "d", "/v2", body),
        key_of("a", "d", "/v1", {**body, "seed": 1}),
        key_of("a", "d", "/v1", {**body, "stream": True}),
    ]
    assert len({own, *others}) == 6
    forms = [{"json_schema": {"schema": {"properties": {name: {} for name in names}}}} for names in ("ab", "ba")]
    assert len({key_of("a", "d", "/v1", {**body, "response_format": form}) for form in forms}) == 2
    assert key_of("a", "d", "/v1", {"prompt": "\ud800"}) != key_of("a", "d", "/v1", {"prompt": "\ud801"})


@pytest.mark.parametrize(
    ("body", "asked", "stored"),
    [
        ({"temperature": 0}, "", True),
        ({"seed": 1}, "", True),
        ({}, "", False),
        ({"temperature": 0.5}, "", False),
        ({}, "use", True),
        ({"temperature": 0}, "no", False),
    ],
)
def test_only_what_would_be_said_again_is_stored(body: dict, asked: str, stored: bool) -> None:
    assert may_be_stored(body, asked) is stored
