"""Exact-match cache of answers, per tenant. Two stages: `Lookup` finds a stored answer, `Keep` stores a new one.
flights.py is between them, so that an answer shared by several requests is stored once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from prometheus_client import Counter

from pennyweight.serve.gateway.ask import Ask, Head, Outcome, Piece, Stage
from pennyweight.serve.gateway.cache_store import Entry, Store

IGNORED_FIELDS = ("user", "metadata", "store", "service_tier", "priority")  # fields that do not affect the answer
MAX_KEPT = 8 * 2**20  # bytes of an answer: a longer one is not stored
HEADER = "x-pennyweight-cache"


class Lookup:
    """A hit is answered from the store. A miss gets a key and goes to the next stage."""

    def __init__(self, inner: Stage, store: Store, counter: Counter) -> None:
        self._inner, self._store, self._counter = inner, store, counter

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        if not may_be_stored(ask.body, ask.cache):
            async with aclosing(self._inner(ask)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        key = key_of(ask.tenant.name, ask.identity, ask.path, ask.body)
        entry = await self._store.get(key)
        if entry is not None:
            self._counter.labels("hit").inc()
            decided = {"x-pennyweight-decision": "from the cache"} if ask.mixed is not None else {}
            yield Head(200, entry.content_type, {HEADER: "hit", "age": str(int(entry.age)), **decided})
            yield entry.body
            yield Outcome(whole=True)
            return
        async with aclosing(self._inner(replace(ask, key=key))) as pieces:
            async for piece in pieces:
                if isinstance(piece, Head):
                    piece = Head(piece.status, piece.content_type, {HEADER: "miss", **piece.headers})
                    self._counter.labels(piece.headers[HEADER]).inc()
                yield piece


class Keep:
    """Stores a complete answer if its request has a key and its pool was not replaced by a reload meanwhile."""

    def __init__(self, inner: Stage, store: Store) -> None:
        self._inner, self._store = inner, store

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        head, parts = None, list[bytes]()
        async with aclosing(self._inner(ask)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Head):
                    head = piece
                elif isinstance(piece, bytes) and ask.key:
                    parts.append(piece)
                elif isinstance(piece, Outcome) and piece.whole and head and ask.key and not ask.pool.closed:
                    body = b"".join(parts)
                    if head.status == 200 and len(body) <= MAX_KEPT:
                        self._store.put(ask.key, Entry(head.content_type, body, time.time()))
                yield piece


def key_of(tenant: str, deployment: str, path: str, body: Mapping[str, Any]) -> str:
    """A hash over the tenant, the deployment and the request's canonical JSON: two tenants never share an entry."""
    asked = {name: value for name, value in canonical(body).items() if name not in IGNORED_FIELDS}
    text = json.dumps([tenant, deployment, path, asked], sort_keys=True, separators=(",", ":"))
    text += json.dumps(body.get("response_format"))  # properties are answered in the schema's own order
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def canonical(body: Mapping[str, Any]) -> dict[str, Any]:
    """Equal for bodies that ask the same: clients write 0 or 0.0, null or nothing, no stream or `"stream": false`."""
    found = {name: _plain_number(value) for name, value in body.items() if value is not None}
    if found.get("stream") is False:
        del found["stream"]
    return found


def _plain_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def may_be_stored(body: Mapping[str, Any], asked: str) -> bool:
    """Greedy and seeded requests, and all for which the client asks with `x-pennyweight-cache: use`."""
    if asked == "use":
        return True
    temperature = body.get("temperature")
    return asked != "no" and (temperature == 0 or body.get("seed") is not None)
