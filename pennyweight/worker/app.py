"""The OpenAI API for an engine that has none: `python -m pennyweight.worker --description … --port …`.

This process speaks HTTP; the model runs in another one (driver_host.py, backend_host.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pennyweight import engines
from pennyweight.browsers import guarded
from pennyweight.engines.base import Engine
from pennyweight.errors import EngineError, EngineRefused, ModelError, PennyweightError
from pennyweight.openai_api.answers import embeddings
from pennyweight.openai_api.bodies import ChatBody, CompletionBody, DetokenizeBody, EmbeddingsBody, TokenizeBody
from pennyweight.openai_api.errors import error_body
from pennyweight.processes import end_with
from pennyweight.tokenizer import Tokenizer
from pennyweight.worker.asking import Served, fingerprint_of, has_form
from pennyweight.worker.backend_host import BackendHost
from pennyweight.worker.driver_host import DriverHost
from pennyweight.worker.host import Host
from pennyweight.worker.prompts import Prompts, Refused
from pennyweight.worker.streaming import EventStream, unless_left, whole


def application(served: Served) -> Starlette:
    """The HTTP application. Every error has OpenAI's format."""

    async def answer_call(request: Request, shape: type[CompletionBody] | type[ChatBody]) -> Response:
        body = _read(shape, await request.body())
        _check_model(served, body.model)
        answers = await unless_left(request, served.growing(body))
        if answers is None:
            return Response(status_code=499)
        if not body.stream:
            return await whole(request, answers)
        return EventStream(answers, body.include_usage, refusable=has_form(body))

    async def chat(request: Request) -> Response:
        return await answer_call(request, ChatBody)

    async def complete(request: Request) -> Response:
        return await answer_call(request, CompletionBody)

    async def embed(request: Request) -> Response:
        body = _read(EmbeddingsBody, await request.body())
        _check_model(served, body.model)
        if not served.engine.embeds:
            raise Refused(f"{served.engine.name} gives no embeddings here: use openvino, onnxruntime or transformers.")

        async def all_of_them() -> JSONResponse:
            texts = await served.prompts.texts(body)
            vectors = [await served.host.embed(tokens, body.pooling) for tokens in texts]
            return JSONResponse(embeddings(vectors, texts, body, served.names[0]))

        answer = await unless_left(request, all_of_them())
        return Response(status_code=499) if answer is None else answer

    async def models(_: Request) -> Response:
        card = {
            "id": served.names[0],
            "object": "model",
            "created": started,
            "owned_by": "pennyweight",
            "max_model_len": served.context_length,
        }
        return JSONResponse({"object": "list", "data": [card]})

    async def tokenize(request: Request) -> Response:
        body = _read(TokenizeBody, await request.body())
        _check_model(served, body.model)
        tokens = await served.prompts.tokenized(body)
        made = {"count": len(tokens), "max_model_len": served.context_length, "tokens": tokens}
        texts = [served.tokenizer.token_text(token) for token in tokens] if body.return_token_strs else None
        return JSONResponse({**made, "token_strs": texts})

    async def detokenize(request: Request) -> Response:
        body = _read(DetokenizeBody, await request.body())
        _check_model(served, body.model)
        return JSONResponse({"prompt": await served.prompts.detokenized(body.tokens)})

    async def health(_: Request) -> Response:
        if served.host.failure:
            return JSONResponse({"status": "failed", "reason": served.host.failure}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def kernels(_: Request) -> Response:
        return JSONResponse({"kernels": await served.host.kernels()})

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(served.host.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    started = int(time.time())
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/embeddings", embed, methods=["POST"]),
            Route("/v1/models", models),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            Route("/health", health),
            Route("/kernels", kernels),
            Route("/metrics", metrics),
        ],
        exception_handlers={
            Refused: _refused,
            ModelError: _refused,
            EngineRefused: _refused,
            RecursionError: _too_deep,
            EngineError: _failed,
            HTTPException: _http_error,
            Exception: _failed,
        },
    )


Shape = TypeVar("Shape", bound=BaseModel)


def _read(shape: type[Shape], raw: bytes) -> Shape:
    try:
        return shape.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_url=False)
        first = next((one for one in found if one["type"] == "value_error"), found[0])  # ours say most
        param = str(first["loc"][0]) if first["loc"] else None
        said = str(first["msg"]).removeprefix("Value error, ")
        raise Refused(f"{param}: {said}." if param else f"{said}.", param) from None


def _check_model(served: Served, name: str) -> None:
    if name and name not in served.names:
        known = ", ".join(map(repr, served.names))
        raise HTTPException(404, f"The model {name!r} is not served here: use {known}.")


async def _refused(_: Request, error: Exception) -> Response:
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    return JSONResponse(error_body(str(error), "invalid_request_error", param, code), status_code=400)


async def _too_deep(_: Request, __: Exception) -> Response:
    return JSONResponse(error_body("The request is nested too deeply: make it flatter.", "invalid_request_error"), 400)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse(error_body(str(error), "server_error"), status_code=500)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(error.detail, "invalid_request_error"), status_code=error.status_code)


def _end(number: int, _: object) -> None:
    """uvicorn re-raises the signal that ended it: turned into an exception, it leaves time to stop the engine."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _host(description: dict[str, Any], engine: Engine, directory: Path, on_death: Callable[[], None]) -> Host:
    backend = engine.backend(directory)
    if backend is not None:
        return BackendHost(backend, description["engine"], str(directory), on_death)
    return DriverHost(description["engine"], description.get("settings", {}), str(directory), on_death)


async def _serve(description: dict[str, Any], host: str, port: int) -> None:
    directory = Path(description["model_path"])
    engine = engines.make(description["engine"], description.get("settings", {}))
    tokenizer = Tokenizer(directory)
    config = json.loads((directory / "config.json").read_text())
    hosted = _host(description, engine, directory, on_death=lambda: setattr(server, "should_exit", True))
    try:
        context_length = engine.context_length(config)
        prompts = Prompts(tokenizer, context_length)
        names = tuple(description["names"])
        served = Served(engine, hosted, tokenizer, prompts, names, context_length, fingerprint_of(description))
        server = uvicorn.Server(
            uvicorn.Config(
                guarded(application(served), host=host, open_to_all=True),
                host=host,
                port=port,
                log_level="warning",
                access_log=False,
                http="httptools",
                loop="uvloop",
                timeout_graceful_shutdown=5,
                ws="none",
                lifespan="off",
            )
        )
        await hosted.start()
        await server.serve()
    finally:
        await hosted.close()
    if hosted.failure:
        raise EngineError(hosted.failure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve one deployment with the OpenAI API.")
    parser.add_argument("--description", required=True, help="the deployment as JSON")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parent", type=int, default=0, help="end when this process does")
    arguments = parser.parse_args()
    if arguments.parent:
        end_with(arguments.parent)
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGTERM, _end)
    try:
        uvloop.run(_serve(json.loads(arguments.description), arguments.host, arguments.port))
    except PennyweightError as error:
        print(f"pennyweight: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
