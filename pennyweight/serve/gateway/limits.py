"""Rate limits per tenant, in requests and tokens per minute. What is charged is corrected by what was used."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from pennyweight.errors import PennyweightError
from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece, Stage
from pennyweight.serve.gateway.refusals import Shed
from pennyweight.serve.gateway.tenant import Tenant

MINUTE = 60.0
EVENT_END = b"\n\n"


@dataclass
class Bucket:
    """A token bucket: fills by `rate` a minute, up to `rate`. More can be taken only after waiting."""

    rate: float
    clock: Callable[[], float] = time.monotonic
    level: float = field(init=False)
    _filled: float = field(init=False)

    def __post_init__(self) -> None:
        self.level, self._filled = self.rate, self.clock()

    def missing_seconds(self, amount: float) -> float:
        """Seconds until this much is available; never longer than until the bucket is full."""
        now = self.clock()
        self.level = min(self.rate, self.level + (now - self._filled) / MINUTE * self.rate)
        self._filled = now
        return max(0.0, (min(amount, self.rate) - self.level) / self.rate * MINUTE)

    def take(self, amount: float) -> None:
        """May be negative, to give back."""
        self.level -= amount


class Limits:
    """The stage: takes a request's estimated cost before it goes on, gives back what was not used when it has ended."""

    def __init__(self, inner: Stage) -> None:
        self._inner = inner
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        self.charge(ask.tenant, ask.cost)
        streamed, refused = 0, False
        used = ask.cost  # of an answer that its client leaves: nobody knows better
        try:
            async with aclosing(self._inner(ask)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Head) and piece.refused:
                        refused = True
                    elif isinstance(piece, Outcome) and refused:
                        used = 0
                    elif isinstance(piece, Outcome):
                        used = ask.prompt_tokens + piece.tokens if piece.used is None else piece.used
                    elif isinstance(piece, bytes) and ask.body.get("stream") is True:
                        streamed += piece.count(EVENT_END)
                        used = ask.prompt_tokens + streamed  # as far as it has come, if its client leaves
                    yield piece
        except PennyweightError:
            used = 0
            raise
        finally:
            self.refund(ask.tenant, ask.cost - used)

    def charge(self, tenant: Tenant, tokens: int) -> None:
        """Take one request and its tokens from the tenant's minute, or raise `Shed`."""
        requests = _bucket(self._requests, tenant.name, tenant.requests_per_minute)
        budget = _bucket(self._tokens, tenant.name, tenant.tokens_per_minute)
        for bucket, amount, limit in ((requests, 1, "requests"), (budget, tokens, "tokens")):
            wait = bucket.missing_seconds(amount) if bucket else 0.0
            if wait > 0 and bucket:
                raise Shed(f"Key {tenant.name!r} is over {bucket.rate:.0f} {limit} a minute: come back later.", wait)
        if requests:
            requests.take(1)
        if budget:
            budget.take(tokens)

    def refund(self, tenant: Tenant, tokens: int) -> None:
        """Give back tokens that were charged and not used; a negative number takes those that were used beyond."""
        budget = self._tokens.get(tenant.name)
        if budget:
            budget.take(-tokens)


def _bucket(buckets: dict[str, Bucket], name: str, rate: int) -> Bucket | None:
    if not rate:
        return None
    return buckets.setdefault(name, Bucket(rate))
