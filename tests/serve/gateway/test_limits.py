"""Limits by the minute: each tenant's own, with what was not used given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece
from pennyweight.serve.gateway.limits import Bucket, Limits
from pennyweight.serve.gateway.refusals import Shed
from pennyweight.serve.gateway.tenant import Tenant
from tests.serve.gateway.asks import an_ask


async def silent(ask: Ask) -> AsyncGenerator[Piece]:
    yield Head(200, "application/json")
    yield Outcome(1.0, 5, whole=True)


def test_a_bucket_fills_by_the_minute() -> None:
    now = 0.0
    bucket = Bucket(60, clock=lambda: now)
    bucket.take(60)
    assert bucket.missing_seconds(1) == pytest.approx(1.0)
    now = 30.0
    assert bucket.missing_seconds(30) == 0.0
    assert bucket.missing_seconds(45) == pytest.approx(15.0)
    assert bucket.missing_seconds(1000) == pytest.approx(30.0)  # more than ever fits: when it is full
    now = 1000.0
    assert bucket.missing_seconds(60) == 0.0


def test_limits_are_each_tenant_s_own() -> None:
    a, b = (Tenant(name, requests_per_minute=2, tokens_per_minute=100) for name in ("a", "b"))
    limits = Limits(silent)
    limits.charge(a, 90)
    with pytest.raises(Shed, match="tokens") as refused:
        limits.charge(a, 50)
    assert 1 <= refused.value.retry_after <= 60
    limits.refund(a, 80)
    limits.charge(a, 50)
    with pytest.raises(Shed, match="requests"):
        limits.charge(a, 1)
    limits.charge(b, 90)


def test_what_was_not_used_is_given_back() -> None:
    tenant = Tenant("a", tokens_per_minute=100)
    limits = Limits(silent)

    async def ask() -> None:
        async for _ in limits(an_ask(tenant=tenant, max_tokens=80)):
            pass

    for _ in range(3):  # 80 are asked for each time, and 5 are used
        asyncio.run(ask())
    limits.charge(tenant, 50)


def charged(pieces: list[Piece], *, leaves: bool = False, **body: object) -> float:
    """Tokens that are missing from a full bucket of 1000 after this answer."""
    tenant = Tenant("a", tokens_per_minute=1000)

    async def answer(ask: Ask) -> AsyncGenerator[Piece]:
        for piece in pieces:
            yield piece

    async def work() -> float:
        limits = Limits(answer)
        ask = an_ask(tenant=tenant, max_tokens=100, **body)
        running = limits(ask)
        async for _ in running:
            if leaves:
                break
        await running.aclose()
        return 1000 - limits._tokens["a"].level

    return asyncio.run(work())


def test_what_was_used_is_charged_whatever_was_declared() -> None:
    head = Head(200, "application/json")
    assert charged([head, b"{}", Outcome(1.0, 7, True, used=12)]) == pytest.approx(12)
    assert charged([head, b"{}", Outcome(1.0, 700, True, used=900)]) == pytest.approx(900)  # n, or a long prompt
    assert charged([head, b"{}"], leaves=True) == pytest.approx(100)  # nobody knows how far it came
    events = [Head(200, "text/event-stream"), b"data: 1\n\ndata: 2\n\n"]
    assert charged(events, stream=True) == pytest.approx(2)


def test_a_refused_request_costs_no_tokens() -> None:
    assert charged([Head(400, "application/json"), b"{}", Outcome()]) == pytest.approx(0, abs=1)
