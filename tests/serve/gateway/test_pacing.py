from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pennyweight.serve.gateway.pacing import AT_ONCE, LONGEST_WAIT, MAX_CLIENTS, Pacing

NOW = 1000.0


async def answer(request: Request) -> Response:
    return Response(status_code=int(request.path_params["status"]))


INNER = Starlette(routes=[Route("/{status}", answer)])


def test_the_first_refusals_do_not_wait_and_later_ones_keep_the_rate() -> None:
    pacing = Pacing(INNER, 5.0, lambda: NOW)
    assert [pacing.wait("a") for _ in range(AT_ONCE)] == pytest.approx([0.0] * AT_ONCE, abs=1e-9)
    assert [pacing.wait("a") for _ in range(3)] == pytest.approx([0.2, 0.4, 0.6])
    assert pacing.wait("b") == pytest.approx(0, abs=1e-9)
    assert pacing.wait("a", "another key") == pytest.approx(0, abs=1e-9)


def test_no_refusal_waits_longer_than_the_longest_wait() -> None:
    pacing = Pacing(INNER, 5.0, lambda: NOW)
    assert max(pacing.wait("a") for _ in range(1000)) == LONGEST_WAIT


def test_a_pause_gives_back_what_was_used() -> None:
    now = NOW
    pacing = Pacing(INNER, 5.0, lambda: now)
    for _ in range(AT_ONCE + 5):
        pacing.wait("a")
    now += 2 + AT_ONCE / 5
    assert pacing.wait("a") == pytest.approx(0, abs=1e-9)


def test_clients_are_forgotten_before_they_fill_the_memory() -> None:
    pacing = Pacing(INNER, 5.0, lambda: NOW)
    for number in range(MAX_CLIENTS + 10):
        pacing.wait(str(number))
    assert len(pacing._due) == MAX_CLIENTS


@pytest.mark.parametrize(("status", "waits"), [(400, True), (404, True), (200, False), (429, False), (503, False)])
def test_only_refusals_of_broken_requests_wait(status: int, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    pacing = Pacing(INNER, 5.0, time.monotonic)

    async def work() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(pacing), base_url="http://test") as client:
            monkeypatch.setattr("pennyweight.serve.gateway.pacing.asyncio.sleep", sleep)
            for _ in range(AT_ONCE + 2):
                assert (await client.get(f"/{status}")).status_code == status

    asyncio.run(work())
    assert any(slept) is waits


def test_pacing_can_be_switched_off() -> None:
    pacing = Pacing(INNER, 0.0)

    async def work() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(pacing), base_url="http://test") as client:
            began = time.monotonic()
            for _ in range(3 * AT_ONCE):
                await client.get("/400")
            assert time.monotonic() - began < LONGEST_WAIT

    asyncio.run(work())
