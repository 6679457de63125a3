"""The gateway's parts, and the stages wrapped one around the other: the way of every request.

ollama -> messages -> responses -> limits -> lookup -> similar -> flights -> keep -> mixing -> admitting -> relay
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from pennyweight.evidence import Evidence
from pennyweight.serve.gateway import exact_cache, page
from pennyweight.serve.gateway.admitting import Admitting
from pennyweight.serve.gateway.ask import Ask, Piece, Stage
from pennyweight.serve.gateway.background import Background
from pennyweight.serve.gateway.batches import Batches
from pennyweight.serve.gateway.cache_store import Store
from pennyweight.serve.gateway.flights import Flights
from pennyweight.serve.gateway.keys import Keys
from pennyweight.serve.gateway.limits import Limits
from pennyweight.serve.gateway.messages import Messages
from pennyweight.serve.gateway.metrics import Metrics
from pennyweight.serve.gateway.mixing import Mixing
from pennyweight.serve.gateway.mixtures import Mixed, Mixtures
from pennyweight.serve.gateway.ollama import Ollama
from pennyweight.serve.gateway.pool import Pool, Pools
from pennyweight.serve.gateway.refusals import Refused, Unavailable
from pennyweight.serve.gateway.relay import Relay
from pennyweight.serve.gateway.responses import Responses
from pennyweight.serve.gateway.settings import GatewaySettings
from pennyweight.serve.gateway.similar_cache import Similar, SimilarAnswers
from pennyweight.serve.gateway.tenant import BATCH, Tenant
from pennyweight.service import Service

SHUTTING_DOWN = "This gateway is shutting down: ask another, or later."
TICK_SECONDS = 0.05
LOG = logging.getLogger("pennyweight.gateway")


@dataclass
class Gateway:
    """The shared state that requests use. `evidence` is what the service was accepted with."""

    settings: GatewaySettings
    pools: Pools
    session: aiohttp.ClientSession
    keys: Keys
    store: Store | None = None
    evidence: Evidence | None = None
    metrics: Metrics = field(default_factory=Metrics)
    similar: SimilarAnswers | None = None
    draining: bool = False
    answering: set[Callable[[str], None]] = field(default_factory=set)  # ends an answer that is under way
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.relay = Relay(self.session, self.settings.stall_seconds)
        self.mixtures = Mixtures(self.metrics.registry, self.settings.state)
        self.mixtures.serve(self.mixtures.made(self.pools.service), self._identity)
        mixing: Stage = Mixing(Admitting(self.relay), self._member_pool, shadow=self.settings.mix_shadow)
        self.limits = Limits(self._cached(mixing))
        responses = Responses(self.limits)
        self.conversations = responses.conversations
        self.background = Background(self.conversations)
        self.answer: Stage = Ollama(Messages(responses))
        self.batches: Batches | None = None
        if self.settings.state is not None:
            self.batches = Batches(
                self.settings.state,
                Responses(Limits(mixing)),  # limits of their own, at the key's rates
                room=self._batch_room,
                pool_for=self.pool_for_batch,
                tenant_of=self.keys.named,
                mixed_for=self.mixed_for,
            )

    def _cached(self, inner: Stage) -> Stage:
        if self.store is None:
            return inner
        kept: Stage = Flights(exact_cache.Keep(inner, self.store))
        if self.similar is not None:
            kept = Similar(kept, self.similar)
        return exact_cache.Lookup(kept, self.store, self.metrics.cache)

    def passed_on(self, ask: Ask) -> AsyncGenerator[Piece]:
        """Pass a quick request to an engine unchanged, without queueing it."""
        return self.relay(ask)

    def tenant(self, authorization: str, api_key: str = "") -> Tenant:
        """By `Authorization: Bearer …`, or by `x-api-key`, which Anthropic's clients send."""
        if self.draining:
            raise Unavailable(SHUTTING_DOWN)
        tenant = self.keys.tenant(authorization or (f"Bearer {api_key}" if api_key else ""))
        if tenant is None:
            message = "The API key is missing or unknown: send `Authorization: Bearer …` or `x-api-key: …`."
            raise Refused(401, message, code="invalid_api_key")
        return tenant

    def pool_for(self, name: Any) -> Pool:
        """Of the member that answers for this model name; a wrong name gets the list of right ones."""
        if name is not None and not isinstance(name, str):
            raise Refused(400, "model is the name of a model, a text.", "model")
        pool = self.pools.pool_for(name)
        if pool is None:
            known = ", ".join(repr(one) for one in self.pools.service.names)
            message = f"The model {str(name)[:100]!r} is not served here: use {known}."
            raise Refused(404, message, "model", "model_not_found")
        return pool

    def _identity(self, member: str) -> str:
        return self.pools.by_member[member].identity

    def _member_pool(self, member: str) -> Pool | None:
        return self.pools.by_member.get(member)

    def mixed_for(self, name: Any) -> Mixed | None:
        """The mixture that answers for this model name, if one does."""
        mixture = self.pools.service.mixture_for(name if isinstance(name, str) else None)
        return None if mixture is None else self.mixtures.by_name[mixture]

    async def swap(self, service: Service, evidence: Evidence | None) -> None:
        """Serve another service from now on."""
        made = self.mixtures.made(service)
        await self.pools.swap(service)
        self.mixtures.serve(made, self._identity)
        if self.similar is not None:
            self.similar.serve(service.id)
        self.evidence = evidence

    def pool_for_batch(self, name: Any) -> Pool:
        """As `pool_for`, but accepted work is done even if a reload has removed its model's name."""
        return self.pools.pool_for(name if isinstance(name, str) else None) or self.pools.default

    async def drain(self, hurried: Callable[[], bool]) -> None:
        """Nothing new is taken; what waits is refused, what runs has `drain_seconds`, less where `hurried`, and then
        ends with a reason."""
        self.draining = True
        for pool in self.pools.all:
            pool.queue.refuse_all(SHUTTING_DOWN)
        if self.answering:
            count, seconds = len(self.answering), self.settings.drain_seconds
            LOG.warning("finishing %d requests, for at most %.0f s; a second signal ends them now", count, seconds)
        deadline = time.monotonic() + self.settings.drain_seconds
        while self.answering and time.monotonic() < deadline and not hurried():
            await asyncio.sleep(TICK_SECONDS)
        for end in list(self.answering):
            end(SHUTTING_DOWN)
        await self.background.stop()

    def _batch_room(self) -> int:
        return sum(pool.queue.room(BATCH) if pool.replicas.ready else 0 for pool in self.pools.all)

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        pools = self.pools.all
        replicas = [(pool, replica) for pool in pools for replica in pool.replicas.all]
        return {
            "service": self.pools.service.label,
            "models": list(self.pools.service.names),
            "uptime_s": round(time.time() - self.started),
            "running": sum(pool.queue.running for pool in pools),
            "waiting": sum(pool.queue.waiting for pool in pools),
            "capacity": sum(pool.replicas.capacity for pool in pools),
            "retries": self.relay.retries,
            "restarts": sum(pool.replicas.restarts for pool in pools),
            "replicas": [
                {
                    "number": replica.number,
                    "member": pool.member,
                    "state": replica.state,
                    "requests": replica.requests,
                    "outstanding_tokens": replica.outstanding,
                    "memory_bytes": replica.memory_bytes,
                }
                for pool, replica in replicas
            ],
            "cache": self.metrics.cache_results(),
            "refused": self.metrics.refusals(),
            "tenants": self.metrics.tenants(),
            "lately": self.metrics.lately(),
            "mixtures": self.mixtures.state(),
            "mix_shadow": self.settings.mix_shadow,
            "similar": self.similar.state() if self.similar else None,
            "batches": self.batches.progress if self.batches else None,
            "evidence": page.accepted_with(self.evidence),
        }

    def prometheus(self) -> bytes:
        pools = self.pools.all
        return self.metrics.exposition(
            running=sum(pool.queue.running for pool in pools),
            waiting=sum(pool.queue.waiting for pool in pools),
            replicas=sum(len(pool.replicas.ready) for pool in pools),
            restarts=sum(pool.replicas.restarts for pool in pools),
        )
