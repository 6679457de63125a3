"""Single flight: identical requests that are under way at once share one answer of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from pennyweight.serve.gateway.ask import Ask, Head, Piece, Stage
from pennyweight.serve.gateway.refusals import Unavailable


class Flight:
    """An answer in flight. It runs as long as there is a listener."""

    def __init__(self, pieces: AsyncGenerator[Piece], done: Callable[[Flight], None]) -> None:
        self.pieces: list[Piece] = []
        self.error: BaseException | None = None
        self.ended = False
        self.abandoned = False
        self._changed = asyncio.Event()
        self._listeners = 0
        self._done = done
        self._task = asyncio.create_task(self._fly(pieces))

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
        """All pieces from the beginning. When the last listener leaves, the answer is cancelled."""
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
                        raise Unavailable("The identical request that was running was cancelled: send this one again.")
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
    """The stage: a request whose key is already in flight shares that answer. Requests without a key are not shared."""

    def __init__(self, inner: Stage) -> None:
        self._inner = inner
        self._by_key: dict[str, Flight] = {}

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        if not ask.key:
            listening, shared = self._inner(ask), False
        else:
            flight = self._by_key.get(ask.key)
            shared = flight is not None and not flight.ended and not flight.abandoned
            if flight is None or not shared:
                flight = self._by_key[ask.key] = Flight(self._inner(ask), lambda ended: self._landed(ask.key, ended))
            listening = flight.listen()
        async with aclosing(listening) as pieces:
            async for piece in pieces:
                yield (
                    piece.with_headers({"x-pennyweight-cache": "shared"})
                    if shared and isinstance(piece, Head)
                    else piece
                )

    def _landed(self, key: str, ended: Flight) -> None:
        if self._by_key.get(key) is ended:
            del self._by_key[key]
