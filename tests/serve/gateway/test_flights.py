"""Flights: one answer for all who ask the same at once, as long as anybody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pennyweight.serve.gateway.ask import Ask, Head, Piece
from pennyweight.serve.gateway.flights import Flights
from pennyweight.serve.gateway.refusals import Unavailable
from tests.serve.gateway.asks import an_ask


class Source:
    """Pieces that come when they are told to."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.started = self.cancelled = 0
        self.go = asyncio.Event()
        self._fault = fault

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        self.started += 1
        try:
            yield Head(200, "text/plain")
            yield b"one"
            await self.go.wait()
            if self._fault:
                raise self._fault
            yield b"two"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def all_of(pieces: AsyncGenerator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]


ASK = an_ask(key="k")
HEAD, SHARED = Head(200, "text/plain"), Head(200, "text/plain", {"x-pennyweight-cache": "shared"})


def test_all_hear_everything_and_the_engine_is_asked_once() -> None:
    async def work() -> None:
        source = Source()
        flights = Flights(source)
        listening = asyncio.create_task(all_of(flights(ASK)))
        await asyncio.sleep(0.01)
        listening_late = asyncio.create_task(all_of(flights(ASK)))
        await asyncio.sleep(0.01)
        source.go.set()
        assert await listening == [HEAD, b"one", b"two"]
        assert await listening_late == [SHARED, b"one", b"two"]
        assert source.started == 1
        assert await all_of(flights(ASK)) == [HEAD, b"one", b"two"]  # not shared: it had ended
        assert source.started == 2

    asyncio.run(work())


def test_asks_without_a_key_go_on_alone() -> None:
    async def work() -> None:
        source = Source()
        source.go.set()
        flights = Flights(source)
        assert await all_of(flights(an_ask())) == await all_of(flights(an_ask())) == [HEAD, b"one", b"two"]
        assert source.started == 2

    asyncio.run(work())


def test_a_fault_reaches_all() -> None:
    async def work() -> None:
        source = Source(Unavailable("gone"))
        flights = Flights(source)
        tasks = [asyncio.create_task(all_of(flights(ASK))) for _ in range(2)]
        await asyncio.sleep(0.01)
        source.go.set()
        for task in tasks:
            with pytest.raises(Unavailable):
                await task

    asyncio.run(work())


def test_only_the_last_who_leaves_ends_it() -> None:
    async def work() -> None:
        source = Source()
        flights = Flights(source)
        tasks = [asyncio.create_task(all_of(flights(ASK))) for _ in range(2)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        assert not source.cancelled
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        assert source.cancelled == 1

    asyncio.run(work())


def test_who_comes_while_it_is_given_up_gets_an_answer_of_his_own() -> None:
    async def work() -> None:
        source = Source()
        flights = Flights(source)
        task = asyncio.create_task(all_of(flights(ASK)))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)  # the listener has left, and the engine has not heard of it yet
        source.go.set()
        assert await all_of(flights(ASK)) == [HEAD, b"one", b"two"]

    asyncio.run(work())
