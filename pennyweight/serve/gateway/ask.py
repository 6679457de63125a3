"""What travels through the stages, and the contract that every stage keeps.

A stage takes an `Ask` and yields pieces: a `Head`, the body's bytes, and at last an `Outcome`. A stage wraps the
next one, as middleware does; gateway.py wraps them all in one place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pennyweight.serve.gateway import reading
from pennyweight.serve.gateway.mixtures import Mixed
from pennyweight.serve.gateway.pool import Pool
from pennyweight.serve.gateway.tenant import Tenant


@dataclass(frozen=True)
class Ask:
    """One request. `raw` is the body as the engine gets it; `cost` is an estimate in tokens; `blocks` are
    hashes of the prompt's prefix. `cache` is the header x-pennyweight-cache, `key` the cache key, equal for identical
    requests; empty if the answer may not be stored. `mixed` is the mixture that it is asked of, if it is one, whose
    large member's `pool` then is; `pinned` the member that the request names, `session` the client's own name for the
    conversation, `shadowed` says that the large member answers whatever is decided. Without `waits` it
    fails at once where no engine is ready."""

    path: str
    body: Mapping[str, Any]
    raw: bytes
    tenant: Tenant
    pool: Pool
    priority: int = 0
    cache: str = ""
    key: str = ""
    cost: int = 0
    sequences: int = 1
    prompt_tokens: int = 0
    blocks: tuple[int, ...] = ()
    mixed: Mixed | None = None
    pinned: str = ""
    session: str = ""
    shadowed: bool = False
    waits: bool = True

    @staticmethod
    def of(path: str, body: Mapping[str, Any], raw: bytes, tenant: Tenant, pool: Pool) -> Ask:
        text = reading.prompt_text(body)
        return Ask(
            path,
            body,
            raw,
            tenant,
            pool,
            cost=reading.cost_of(body, text),
            sequences=reading.sequences_of(body),
            prompt_tokens=reading.tokens_of(text),
            blocks=reading.blocks_of(text),
        )

    def translated(self, path: str, body: Mapping[str, Any], raw: bytes) -> Ask:
        """The same question in another of the API's shapes."""
        other = Ask.of(path, body, raw, self.tenant, self.pool)
        same = {name: getattr(self, name) for name in ("priority", "cache", "mixed", "pinned", "session", "shadowed")}
        return replace(other, **same)

    @property
    def identity(self) -> str:
        """Equal where the same files answer by the same rule."""
        if self.mixed is None:
            return self.pool.identity
        escalated = self.mixed.has_escalated(self.earlier_conversations)
        return f"{self.pool.identity} {self.mixed.identity} {self.pinned} {escalated} {self.shadowed}"

    @property
    def conversation(self) -> str:
        """What this turn's next one will find itself to be a part of: the client's x-pennyweight-session, else all
        messages so far; empty for what is no conversation."""
        messages = self.body.get("messages")
        if self.session:
            return self._hashed(self.session)
        return self._hashed(messages) if isinstance(messages, list) and messages else ""

    @property
    def earlier_conversations(self) -> list[str]:
        """The turns that this one may follow."""
        if self.session:
            return [self._hashed(self.session)]
        messages = self.body.get("messages")
        if not isinstance(messages, list):
            return []
        ends = [n for n, one in enumerate(messages) if isinstance(one, dict) and one.get("role") == "assistant" and n]
        return [self._hashed(messages[:end]) for end in ends]

    def _hashed(self, what: Any) -> str:
        return hashlib.sha256(json.dumps([self.tenant.name, what]).encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Head:
    """The status and headers of an answer."""

    status: int
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Nothing was answered, and no work was done."""
        return self.status >= 400

    def with_headers(self, headers: Mapping[str, str]) -> Head:
        return replace(self, headers={**self.headers, **headers})


@dataclass(frozen=True)
class Outcome:
    """How an answer ended: when its first token came (monotonic seconds; 0 where none did), how many tokens it has, and
    whether it is whole. `used` are all tokens that it took, the prompt's too, where the engine said so;
    `finish` is its finish_reason."""

    first: float = 0.0
    tokens: int = 0
    whole: bool = False
    used: int | None = None
    finish: str = ""


Piece = Head | bytes | Outcome
Stage = Callable[[Ask], AsyncGenerator[Piece]]


async def answer_of(stage: Stage, ask: Ask) -> tuple[Head, bytes]:
    """The whole answer to a question of the gateway's own."""
    parts = [piece async for piece in stage(ask)]
    head = parts[0]
    assert isinstance(head, Head)
    return head, b"".join(piece for piece in parts if isinstance(piece, bytes))
