"""Flights: one answer for all who ask the same at once, as long as anybody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pennyweight.serve.gateway.flights import Flight, Flights, Piece
from pennyweight.serve.gateway.relay import Head, Unavailable


class Source:
    """Pieces that come when they are told to."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.started = self.cancelled = 0
        self.go = asyncio.Event()
        self._fault = fault

    async def pieces(self) -> AsyncGenerator[Piece]:
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


def test_all_hear_everything_and_the_engine_is_asked_once() -> None:
    async def work() -> None:
        source, flights, landed = Source(), Flights(), []
        first, shared = flights.join("k", source.pieces, landed.append)
        listening = asyncio.create_task(all_of(first))
        await asyncio.sleep(0.01)
        late, late_shared = flights.join("k", source.pieces, landed.append)
        listening_late = asyncio.create_task(all_of(late))
        await asyncio.sleep(0.01)
        source.go.set()
        expected = [Head(200, "text/plain"), b"one", b"two"]
        assert await listening == await listening_late == expected
        assert (shared, late_shared, source.started) == (False, True, 1)
        assert [isinstance(flight, Flight) and flight.body for flight in landed] == [b"onetwo"]
        again, shared = flights.join("k", source.pieces, landed.append)
        assert await all_of(again) == expected and not shared

    asyncio.run(work())


def test_a_fault_reaches_all() -> None:
    async def work() -> None:
        source, flights = Source(Unavailable("gone")), Flights()
        both = [flights.join("k", source.pieces, lambda _: None)[0] for _ in range(2)]
        tasks = [asyncio.create_task(all_of(pieces)) for pieces in both]
        await asyncio.sleep(0.01)
        source.go.set()
        for task in tasks:
            with pytest.raises(Unavailable):
                await task

    asyncio.run(work())


def test_only_the_last_who_leaves_ends_it() -> None:
    async def work() -> None:
        source, flights = Source(), Flights()
        both = [flights.join("k", source.pieces, lambda _: None)[0] for _ in range(2)]
        tasks = [asyncio.create_task(all_of(pieces)) for pieces in both]
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
        source, flights = Source(), Flights()
        first, _ = flights.join("k", source.pieces, lambda _: None)
        task = asyncio.create_task(all_of(first))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)  # the listener has left, and the engine has not heard of it yet
        source.go.set()
        again, _ = flights.join("k", source.pieces, lambda _: None)
        assert await all_of(again) == [Head(200, "text/plain"), b"one", b"two"]

    asyncio.run(work())
