"""The gateway's HTTP face: OpenAI's API in front of the replicas. One request's way: who asks, what it asks, whether it
is known already, whether it may go now, and then the engine's bytes as they come."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pennyweight.errors import PennyweightError
from pennyweight.serve.gateway import batch_routes, page, reading, responses
from pennyweight.serve.gateway import cache as caching
from pennyweight.serve.gateway.admission import BATCH, Admission, Ticket
from pennyweight.serve.gateway.batches import Batches
from pennyweight.serve.gateway.cache import Entry
from pennyweight.serve.gateway.flights import MOST_KEPT, Flight, Flights, Piece
from pennyweight.serve.gateway.keys import Keys, Tenant
from pennyweight.serve.gateway.metrics import Metrics
from pennyweight.serve.gateway.openapi import description
from pennyweight.serve.gateway.passing import Passing, refusal
from pennyweight.serve.gateway.reading import Refused
from pennyweight.serve.gateway.relay import Call, Head, Relay
from pennyweight.serve.gateway.replicas import Replicas
from pennyweight.serve.gateway.settings import GatewaySettings

LOG = logging.getLogger("pennyweight.gateway")


@dataclass
class Gateway:
    """Everything that a request meets on its way."""

    settings: GatewaySettings
    replicas: Replicas
    session: aiohttp.ClientSession
    keys: Keys
    store: caching.Store | None
    evidence: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    flights: Flights = field(default_factory=Flights)
    card: dict[str, Any] = field(default_factory=dict)
    draining: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        self.relay = Relay(self.session, self.replicas, settings.stall_seconds)
        self.admission = Admission(lambda: self.replicas.capacity, settings.max_queue, settings.slo_ttft_ms / 1000)
        self.replicas.on_change = self.admission.dispatch
        self.batches: Batches | None = None
        if settings.state is not None:
            self.batches = Batches(settings.state, self.admitted, self._batch_room, self.check)

    # -- one request --

    async def generate(self, request: Request, path: str) -> Response:
        arrived = time.monotonic()
        tenant = self.tenant(request)
        raw = await reading.read(request, self.settings.request_bytes)
        body = reading.parsed(raw)
        self.check(body)
        if self.settings.log_requests:
            LOG.info("%s asks %s: %s", tenant.name, path, raw.decode(errors="replace"))
        asked, translated = body, path == responses.PATH
        if translated:
            body = responses.as_chat(asked)
            path, raw = responses.CHAT_PATH, json.dumps(body).encode()
        text = reading.prompt_text(body)
        call = Call(path, raw, reading.cost_of(body, text), reading.blocks_of(text))
        self.keys.charge(tenant, call.cost)
        ticket = Ticket(self._priority(tenant, body), tenant.name, call.cost)

        def ended(reason: str) -> None:
            how = reason if reason != "stop" or call.whole else "error"
            self.metrics.ended(how, arrived, call.first, call.events)
            used = len(text) // reading.BYTES_PER_TOKEN + call.events
            self.keys.refund(tenant, call.cost - used if reason != "shed" else call.cost)

        pieces, headers = await self._pieces(request, tenant, ticket, call, body)
        return Passing(responses.answered(pieces, asked) if translated else pieces, headers, ended)

    async def _pieces(
        self, request: Request, tenant: Tenant, ticket: Ticket, call: Call, body: dict[str, Any]
    ) -> tuple[AsyncGenerator[Piece], dict[str, str]]:
        """The answer from the cache, from somebody who asks the same, or from an engine; and what to say of it."""
        store, wish = self.store, request.headers.get("x-pennyweight-cache", "")
        if store is None or not caching.may_be_stored(body, wish):
            return self.admitted(ticket, call), {}
        key = caching.key_of(tenant.name, self.replicas.deployment.id, call.path, body)
        entry = await store.get(key)
        if entry is not None:
            self.metrics.cache.labels("hit").inc()
            call.whole = True
            return entry.pieces(), {"x-pennyweight-cache": "hit", "age": str(int(entry.age))}

        deployment = self.replicas.deployment

        def landed(flight: Flight) -> None:
            head = flight.pieces[0] if flight.pieces else None
            if deployment is not self.replicas.deployment:
                return  # another one may have answered
            if call.whole and isinstance(head, Head) and len(flight.body) <= MOST_KEPT:
                store.put(key, Entry(head.content_type, flight.body, time.time()))

        pieces, shared = self.flights.join(key, lambda: self.admitted(ticket, call), landed)
        result = "shared" if shared else "miss"
        call.whole = call.whole or shared  # the other's call tells how it ended
        self.metrics.cache.labels(result).inc()
        return pieces, {"x-pennyweight-cache": result}

    def _batch_room(self) -> int:
        return self.admission.room(BATCH) if self.replicas.ready else 0

    async def admitted(self, ticket: Ticket, call: Call) -> AsyncGenerator[Piece]:
        """The engine's answer, once it is this request's turn."""
        await self.admission.enter(ticket)
        try:
            async with aclosing(self.relay.pieces(call)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.admission.leave()

    def tenant(self, request: Request) -> Tenant:
        if self.draining:
            raise Refused(503, "This gateway is shutting down: ask another.")
        tenant = self.keys.tenant(request.headers.get("authorization", ""))
        if tenant is None:
            message = "The API key is missing or unknown: send `Authorization: Bearer …`."
            raise Refused(401, message, code="invalid_api_key")
        return tenant

    def check(self, body: dict[str, Any]) -> None:
        served = self.replicas.deployment.served_name
        asked = body.get("model", "")
        if asked not in ("", None, served):
            message = f"The model {str(asked)[:100]!r} is not served here: use {served!r}."
            raise Refused(404, message, "model", "model_not_found")

    @staticmethod
    def _priority(tenant: Tenant, body: dict[str, Any]) -> int:
        """The key's own, or later where the request says so: nobody moves himself forward."""
        return min(max(tenant.priority, reading.whole_number(body, "priority", default=0)), BATCH - 1)

    # -- what else is asked --

    async def forward(self, request: Request, path: str) -> Response:
        """To an engine as it is, without a place in the queue: what is quick."""
        self.tenant(request)
        raw = await reading.read(request, self.settings.request_bytes)
        reading.parsed(raw)
        call = Call(path, raw, 0)
        return Passing(self.relay.pieces(call), {}, lambda _: None)

    async def embed(self, request: Request) -> Response:
        deployment = self.replicas.deployment
        if deployment.settings.get("runner") != "pooling":
            self.tenant(request)
            message = f"This {deployment.engine} gives no embeddings: serve the model with vllm and runner=pooling."
            raise Refused(400, message)
        return await self.generate(request, "/v1/embeddings")

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        return {
            "batches": self.batches.progress if self.batches else None,
            "deployment": self.replicas.deployment.label,
            "model": self.replicas.deployment.served_name,
            "running": self.admission.running,
            "waiting": self.admission.waiting,
            "capacity": self.replicas.capacity,
            "retries": self.relay.retries,
            "restarts": self.replicas.restarts,
            "replicas": [
                {"number": r.number, "state": r.state, "requests": r.requests, "outstanding_tokens": r.outstanding}
                for r in self.replicas.all
            ],
            "cache": {name: int(self.metrics.cache.labels(name)._value.get()) for name in ("hit", "shared", "miss")},
            "lately": self.metrics.lately(),
            "evidence": page.accepted_with(self.evidence),
        }

    def prometheus(self) -> bytes:
        self.metrics.running.set(self.admission.running)
        self.metrics.waiting.set(self.admission.waiting)
        self.metrics.replicas.set(len(self.replicas.ready))
        self.metrics.restarts.set(self.replicas.restarts)
        return generate_latest(self.metrics.registry)


def application(gateway: Gateway) -> Starlette:
    async def chat(request: Request) -> Response:
        return await gateway.generate(request, "/v1/chat/completions")

    async def complete(request: Request) -> Response:
        return await gateway.generate(request, "/v1/completions")

    async def respond(request: Request) -> Response:
        return await gateway.generate(request, responses.PATH)

    async def tokenize(request: Request) -> Response:
        return await gateway.forward(request, "/tokenize")

    async def models(request: Request) -> Response:
        gateway.tenant(request)
        return JSONResponse({"object": "list", "data": [gateway.card]})

    async def model(request: Request) -> Response:
        gateway.tenant(request)
        gateway.check({"model": request.path_params["name"]})
        return JSONResponse(gateway.card)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        count = 0 if gateway.draining else len(gateway.replicas.ready)
        return JSONResponse({"ready": count > 0, "replicas": count}, status_code=200 if count else 503)

    async def metrics(request: Request) -> Response:
        gateway.tenant(request)
        return Response(gateway.prometheus(), media_type=CONTENT_TYPE_LATEST)

    async def status(request: Request) -> Response:
        gateway.tenant(request)
        return JSONResponse(gateway.state())

    async def look(_: Request) -> Response:
        return HTMLResponse(page.html(), headers=page.HEADERS)

    async def openapi(_: Request) -> Response:
        return JSONResponse(description(gateway.replicas.deployment.served_name))

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/responses", respond, methods=["POST"]),
            Route("/v1/embeddings", gateway.embed, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
            Route("/status", status),
            Route("/openapi.json", openapi),
            Route("/", look),
            *batch_routes.routes(gateway.batches, gateway.tenant, gateway.settings.request_bytes),
        ],
        exception_handlers={PennyweightError: _refused, HTTPException: _http_error, Exception: _failed},
    )


async def _refused(_: Request, error: Exception) -> Response:
    return refusal(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    made = refusal(Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}."))
    made.headers.update(error.headers or {})
    return made


async def _failed(_: Request, error: Exception) -> Response:
    return refusal(PennyweightError(f"The gateway failed ({type(error).__name__}): this is a bug of ours."))
