"""Requests that were lost with an engine are asked again one at a time; a small member does not queue there."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pennyweight.serve.gateway.quarantine import Quarantine
from pennyweight.serve.gateway.refusals import Unavailable
from tests.serve.gateway.asks import an_ask


class APool:
    member = "small"


DEAD: Any = SimpleNamespace(number=1, stalled_alone=False, process=SimpleNamespace(alive=False), state=None)


def test_a_small_members_request_does_not_wait_behind_another_suspect() -> None:
    async def work() -> None:
        made = Quarantine(None)  # type: ignore[arg-type]
        pool = APool()
        first = replace(an_ask(pool=pool), raw=b"first")
        second = replace(an_ask(pool=pool), raw=b"second")
        await made.note(first, DEAD)
        await made.note(second, DEAD)
        begun = asyncio.Event()
        async with made.trial(first, begun):
            with pytest.raises(Unavailable):
                async with made.trial(replace(second, waits=False), asyncio.Event()):
                    pass
            waiting = asyncio.create_task(_tried(made, second))
            await asyncio.sleep(0)
            assert not waiting.done()
            begun.set()
        await waiting

    asyncio.run(asyncio.wait_for(work(), 10))


async def _tried(made: Quarantine, ask: Any) -> None:
    async with made.trial(ask, asyncio.Event()):
        pass
