"""The gateway's HTTP application: OpenAI's API in front of the pools."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pennyweight.errors import PennyweightError
from pennyweight.serve.gateway import batch_routes, exact_cache, messages, ollama, page, reading, responses
from pennyweight.serve.gateway.ask import Ask, Outcome, answer_of
from pennyweight.serve.gateway.gateway import Gateway
from pennyweight.serve.gateway.mixing import member_in
from pennyweight.serve.gateway.openapi import description
from pennyweight.serve.gateway.refusals import Refused, refusal
from pennyweight.serve.gateway.streamed_response import Ending, StreamedResponse
from pennyweight.serve.gateway.tenant import BATCH, Tenant

TRANSLATED = (messages.PATH, responses.PATH, ollama.CHAT, ollama.GENERATE)
CACHE_USES = ("", "no", "no-similar", "use")
LOG = logging.getLogger("pennyweight.gateway")
COUNTED = ("messages", "tools", "continue_final_message")  # what makes a prompt


class RequestHandler:
    """Handles incoming requests: reads and identifies them, runs the stages, counts them when they end."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def tenant(self, request: Request) -> Tenant:
        return self._gateway.tenant(request.headers.get("authorization", ""), request.headers.get("x-api-key", ""))

    async def ask(self, request: Request, path: str) -> Ask:
        tenant = self.tenant(request)
        raw = await reading.read(request, self._gateway.settings.request_bytes)
        body = reading.parsed(raw)
        name = body.get("model")
        if path in (ollama.CHAT, ollama.GENERATE) and isinstance(name, str):
            body["model"] = name = name.removesuffix(ollama.LATEST)
        pool = self._gateway.pool_for(name)
        if not name and path in TRANSLATED:
            body["model"] = pool.names[0]
        if self._gateway.settings.log_requests:
            LOG.info("%s asks %s: %s", tenant.name, path, raw.decode(errors="replace"))
        # A key's own priority, or a lower one from the request: a request cannot raise its priority.
        wanted = reading.whole_number(body, "priority", default=0)
        priority = min(max(tenant.priority, wanted), BATCH - 1)
        mixed = self._gateway.mixed_for(name)
        return replace(
            Ask.of(path, body, raw, tenant, pool),
            priority=priority,
            cache=_cache_use(request.headers.get(exact_cache.HEADER, "")),
            mixed=mixed,
            pinned=member_in(request.headers.get("x-pennyweight-member", "")),
            session=request.headers.get("x-pennyweight-session", ""),
            shadowed=mixed is not None and self._gateway.settings.mix_shadow,
        )

    async def respond(self, request: Request) -> Response:
        """A response at once, or in the background."""
        arrived = time.monotonic()
        ask = await self.ask(request, responses.PATH)
        if ask.body.get("background") is not True:
            return self._answered(ask, arrived)

        def ended(ending: Ending, outcome: Outcome) -> None:
            self._gateway.metrics.ended(ending, ask.tenant.name, arrived, outcome)

        return JSONResponse(self._gateway.background.begin(ask, self._gateway.answer, ended))

    async def generate(self, request: Request, path: str) -> Response:
        arrived = time.monotonic()
        return self._answered(await self.ask(request, path), arrived)

    def _answered(self, ask: Ask, arrived: float) -> Response:
        def ended(ending: Ending, outcome: Outcome) -> None:
            self._gateway.answering.discard(response.end)
            self._gateway.metrics.ended(ending, ask.tenant.name, arrived, outcome)

        streams = ask.body.get("stream") is True and ask.path not in (ollama.CHAT, ollama.GENERATE)
        response = StreamedResponse(self._gateway.answer(ask), ended, streams=streams)
        self._gateway.answering.add(response.end)
        return response

    async def forward(self, request: Request, path: str) -> Response:
        return StreamedResponse(self._gateway.passed_on(await self.ask(request, path)), lambda *_: None)


def _cache_use(header: str) -> str:
    """A value that nobody knows would be taken for none, where a client meant to forbid the cache."""
    asked = header.strip().lower()
    if asked not in CACHE_USES:
        raise Refused(400, f"The header {exact_cache.HEADER} is {header!r}: use `no`, `no-similar` or `use`.")
    return asked


def application(gateway: Gateway) -> Starlette:
    door = RequestHandler(gateway)

    async def chat(request: Request) -> Response:
        return await door.generate(request, "/v1/chat/completions")

    async def complete(request: Request) -> Response:
        return await door.generate(request, "/v1/completions")

    async def respond(request: Request) -> Response:
        return await door.respond(request)

    async def stored(request: Request) -> Response:
        """A response that was kept: read, or deleted."""
        tenant, name = door.tenant(request).name, request.path_params["name"]
        if request.method == "DELETE":
            gateway.conversations.remove(tenant, name)
            return JSONResponse({"id": name, "object": "response", "deleted": True})
        return JSONResponse(gateway.conversations.response(tenant, name))

    async def cancel(request: Request) -> Response:
        return JSONResponse(gateway.background.cancel(door.tenant(request).name, request.path_params["name"]))

    async def message(request: Request) -> Response:
        return await door.generate(request, messages.PATH)

    async def count(request: Request) -> Response:
        """Anthropic's count_tokens, by the engine's own count."""
        ask = await door.ask(request, "/tokenize")
        chat = messages.as_chat({**ask.body, "max_tokens": 1})
        body: dict[str, Any] = {name: chat[name] for name in COUNTED if name in chat}
        raw = json.dumps(body).encode()
        head, told = await answer_of(gateway.passed_on, replace(ask, body=body, raw=raw))
        if head.status != 200:
            return Response(messages.error_of(told, 400), 400, media_type="application/json")
        return JSONResponse({"input_tokens": json.loads(told)["count"]})

    async def ollama_chat(request: Request) -> Response:
        return await door.generate(request, ollama.CHAT)

    async def ollama_generate(request: Request) -> Response:
        return await door.generate(request, ollama.GENERATE)

    async def ollama_tags(request: Request) -> Response:
        door.tenant(request)
        made = datetime.fromtimestamp(gateway.started, UTC).isoformat()
        names = gateway.pools.service.names
        cards = [{"name": n, "model": n, "modified_at": made, "size": 0, "digest": "", "details": {}} for n in names]
        return JSONResponse({"models": cards})

    async def version(_: Request) -> Response:
        return JSONResponse({"version": metadata.version("pennyweight")})

    async def embed(request: Request) -> Response:
        door.tenant(request)
        if not any(pool.gives_embeddings for pool in gateway.pools.all):
            engine = gateway.pools.default.deployment.engine
            message = (
                f"{engine} gives no embeddings: use openvino, onnxruntime, transformers, or vllm with runner=pooling."
            )
            raise Refused(400, message)
        return await door.generate(request, "/v1/embeddings")

    async def tokenize(request: Request) -> Response:
        return await door.forward(request, "/tokenize")

    async def detokenize(request: Request) -> Response:
        return await door.forward(request, "/detokenize")

    async def kernels(request: Request) -> Response:
        door.tenant(request)
        return JSONResponse({"kernels": await gateway.pools.default.replicas.kernels()})

    async def models(request: Request) -> Response:
        door.tenant(request)
        return JSONResponse({"object": "list", "data": cards()})

    async def model(request: Request) -> Response:
        door.tenant(request)
        name = request.path_params["name"]
        return JSONResponse({**gateway.pool_for(name).card, "id": name})

    def cards() -> list[dict[str, object]]:
        pools = [(name, gateway.pool_for(name)) for name in gateway.pools.service.names]
        return [{**pool.card, "id": name, "root": pool.member} for name, pool in pools]

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        missing = [pool.member for pool in gateway.pools.all if not pool.replicas.ready]
        count = 0 if gateway.draining else sum(len(pool.replicas.ready) for pool in gateway.pools.all)
        fine = count > 0 and not missing
        return JSONResponse({"ready": fine, "replicas": count}, status_code=200 if fine else 503)

    async def figures(request: Request) -> Response:
        door.tenant(request)
        return Response(gateway.prometheus(), media_type=CONTENT_TYPE_LATEST)

    async def status(request: Request) -> Response:
        door.tenant(request)
        return JSONResponse(gateway.state())

    async def look(_: Request) -> Response:
        return HTMLResponse(page.html(), headers=page.HEADERS)

    async def openapi(_: Request) -> Response:
        return JSONResponse(description(", ".join(gateway.pools.service.names)))

    return Starlette(
        routes=[
            *[  # clients differ in whether their base URL ends with /v1
                route
                for prefix in ("/v1", "")
                for route in (
                    Route(f"{prefix}/chat/completions", chat, methods=["POST"]),
                    Route(f"{prefix}/completions", complete, methods=["POST"]),
                    Route(f"{prefix}/responses", respond, methods=["POST"]),
                    Route(f"{prefix}/responses/{{name}}", stored, methods=["GET", "DELETE"]),
                    Route(f"{prefix}/responses/{{name}}/cancel", cancel, methods=["POST"]),
                    Route(f"{prefix}/messages", message, methods=["POST"]),
                    Route(f"{prefix}/messages/count_tokens", count, methods=["POST"]),
                    Route(f"{prefix}/embeddings", embed, methods=["POST"]),
                    Route(f"{prefix}/models", models),
                    Route(f"{prefix}/models/{{name:path}}", model),
                )
            ],
            Route("/v1/v1/messages", message, methods=["POST"]),  # of a base URL that ends with /v1
            Route("/v1/v1/messages/count_tokens", count, methods=["POST"]),
            Route("/api/chat", ollama_chat, methods=["POST"]),
            Route("/api/generate", ollama_generate, methods=["POST"]),
            Route("/api/tags", ollama_tags),
            Route("/api/version", version),
            Route("/version", version),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            Route("/kernels", kernels),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", figures),
            Route("/status", status),
            Route("/openapi.json", openapi),
            Route("/", look),
            *batch_routes.routes(gateway.batches, door.tenant, gateway.settings.request_bytes),
        ],
        exception_handlers={PennyweightError: _refused, HTTPException: _http_error, Exception: _failed},
    )


async def _refused(request: Request, error: Exception) -> Response:
    return in_its_words(request.url.path, refusal(error))


def in_its_words(path: str, made: Response) -> Response:
    """An error of the gateway's own in the shape of the API whose path was asked."""
    if "/messages" in path:
        told = messages.error_of(bytes(made.body), made.status_code)
    elif path.startswith("/api/"):
        told = ollama.error_of(bytes(made.body))
    else:
        return made
    headers = {name: value for name, value in made.headers.items() if not name.startswith("content-")}
    return Response(told, made.status_code, headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    made = refusal(Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}."))
    made.headers.update(error.headers or {})
    return in_its_words(request.url.path, made)


async def _failed(_: Request, error: Exception) -> Response:
    return refusal(PennyweightError(f"The gateway failed ({type(error).__name__}): this is a bug of ours."))
