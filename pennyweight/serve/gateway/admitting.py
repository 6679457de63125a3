"""The stage in front of the engines: an ask goes on when it is its turn in its pool's queue (admission.py)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from pennyweight.serve.gateway.admission import Ticket
from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece, Stage


class Admitting:
    def __init__(self, inner: Stage) -> None:
        self._inner = inner

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        queue, used = ask.pool.queue, None
        ticket = Ticket(ask.priority, ask.tenant.name, ask.cost, ask.sequences, ask.waits)
        await queue.enter(ticket)
        try:
            async with aclosing(self._inner(ask)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Head) and piece.refused:
                        used = 0
                    elif isinstance(piece, Outcome) and piece.whole:
                        used = piece.used if piece.used is not None else ask.cost
                    yield piece
        finally:
            queue.leave(ticket, used)
