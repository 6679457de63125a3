"""Single flight: identical requests that are under way at once share one answer of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from pennyweight.serve.gateway.admission import Unavailable
from pennyweight.serve.gateway.relay import Head

Piece = Head | bytes
MOST_KEPT = 8 * 2**20  # bytes of an answer: a longer one is not stored


class Flight:
    """An answer under way. It goes on as long as anybody listens."""

    def __init__(self, pieces: AsyncGenerator[Piece], done: Callable[[Flight], None]) -> None:
        self.pieces: list[Piece] = []
        self.error: BaseException | None = None
        self.ended = False
        self.abandoned = False
        self._changed = asyncio.Event()
        self._listeners = 0
        self._done = done
        self._task = asyncio.create_task(self._fly(pieces))

    @property
    def body(self) -> bytes:
        return b"".join(piece for piece in self.pieces if isinstance(piece, bytes))

    async def _fly(self, pieces: AsyncGenerator[Piece]) -> None:
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    self.pieces.append(piece)
                    self._wake()
        except BaseException as error:
            self.error = error
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.ended = True
            self._done(self)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def listen(self) -> AsyncGenerator[Piece]:
        """All pieces from the beginning on. The last listener who leaves takes the answer along."""
        self._listeners += 1
        place = 0
        try:
            while True:
                changed = self._changed
                while place < len(self.pieces):
                    yield self.pieces[place]
                    place += 1
                if self.ended:
                    if isinstance(self.error, asyncio.CancelledError):
                        raise Unavailable("The request that this one shared its answer with was given up: ask again.")
                    if self.error is not None:
                        raise self.error
                    return
                if changed is self._changed:
                    await changed.wait()
        finally:
            self._listeners -= 1
            if not self._listeners and not self.ended:
                self.abandoned = True
                self._task.cancel()


class Flights:
    """Those under way, by key."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}

    def join(
        self, key: str, start: Callable[[], AsyncGenerator[Piece]], landed: Callable[[Flight], None]
    ) -> tuple[AsyncGenerator[Piece], bool]:
        """The answer, and whether somebody else had asked for it already."""
        flight = self._by_key.get(key)
        shared = flight is not None and not flight.ended and not flight.abandoned
        if flight is None or not shared:

            def done(ended: Flight) -> None:
                if self._by_key.get(key) is ended:
                    del self._by_key[key]
                landed(ended)

            flight = self._by_key[key] = Flight(start(), done)
        return flight.listen(), shared
