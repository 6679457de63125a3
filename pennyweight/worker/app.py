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
import uuid
from collections.abc import Callable
from dataclasses import dataclass
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
from pennyweight.generation import Generation
from pennyweight.openai_api import json_schema
from pennyweight.openai_api.answers import Answer, scored
from pennyweight.openai_api.bodies import Body, ChatBody, CompletionBody, TokenizeBody
from pennyweight.openai_api.errors import error_body
from pennyweight.processes import end_with
from pennyweight.tokenizer import Tokenizer
from pennyweight.worker.backend_host import BackendHost
from pennyweight.worker.driver_host import DriverHost
from pennyweight.worker.host import Host
from pennyweight.worker.prompts import Prompts, Refused
from pennyweight.worker.streaming import EventStream, Generating, copies, whole


@dataclass(frozen=True)
class Served:
    """What the worker serves: everything that a request handler needs."""

    engine: Engine
    host: Host
    tokenizer: Tokenizer
    prompts: Prompts
    names: tuple[str, ...]  # model names that requests may use
    context_length: int

    def generation(self, body: CompletionBody | ChatBody, prompt: list[int]) -> Generation:
        room = self.context_length - len(prompt)
        asked = body.max_tokens
        if isinstance(body, ChatBody):
            asked = body.max_completion_tokens or body.max_tokens or room
        assert asked is not None
        if asked > room or (isinstance(body, ChatBody) and room < 1):
            raise Refused(
                f"This model's context is {self.context_length} tokens, and the prompt ({len(prompt)}) with the answer "
                f"({asked}) would be {len(prompt) + asked}: shorten the prompt or lower max_tokens.",
                "messages" if isinstance(body, ChatBody) else "prompt",
                "context_length_exceeded",
            )
        if body.unheeded:
            raise Refused(f"{self.engine.name} does not support {body.unheeded}: remove it.", body.unheeded)
        if body.tools:
            raise Refused(f"{self.engine.name} does not support tools: remove tools.", "tools")
        schema = None if body.requested_schema is None else self._followed(body.requested_schema)
        if asked and (body.top_logprobs or 0) > self.engine.max_top_logprobs:
            raise Refused(f"{self.engine.name} gives at most {self.engine.max_top_logprobs} top_logprobs.", "logprobs")
        return Generation(
            id=uuid.uuid4().hex,
            prompt=prompt,
            max_tokens=asked,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
            stop_tokens=() if body.ignore_eos and schema is None else self.tokenizer.end_tokens,
            top_logprobs=body.top_logprobs,
            schema=schema,
        )

    def _followed(self, schema: dict[str, Any]) -> str:
        if not self.engine.supports_json_schema:
            message = f"{self.engine.name} does not support structured output: remove response_format."
            raise Refused(message, "response_format")
        try:
            return json_schema.followed(schema)
        except EngineRefused as error:
            raise Refused(str(error), "response_format") from None


def application(served: Served) -> Starlette:
    """The HTTP application. Every error has OpenAI's format."""

    async def answer_call(request: Request, shape: type[CompletionBody] | type[ChatBody]) -> Response:
        body = _read(shape, await request.body())
        _check_model(served, body)
        prompt = await served.prompts.tokens_of(body)
        generation = served.generation(body, prompt)
        echo = ""
        if isinstance(body, CompletionBody) and body.echo:
            echo = body.prompt if isinstance(body.prompt, str) else served.tokenizer.decode(prompt)
        shared = Answer(
            chat=isinstance(body, ChatBody),
            model=body.model or served.names[0],
            prompt_tokens=prompt,
            tokenizer=served.tokenizer,
            echo=echo,
            with_logprobs=body.top_logprobs is not None,
            with_token_ids=body.return_token_ids,
        )
        if generation.max_tokens == 0:
            return await score_prompt(shared, body)
        if echo and body.top_logprobs is not None:
            raise Refused("echo with logprobs scores a prompt: set max_tokens to 0.", "max_tokens")
        answers = [
            (answer, Generating(served.host, served.tokenizer, one, body.stops))
            for answer, one in zip(shared.copies(body.n), copies(generation, body.n), strict=True)
        ]
        if not body.stream:
            return await whole(request, answers)
        return EventStream(answers, body.include_usage, refusable=generation.schema is not None)

    async def score_prompt(answer: Answer, body: Body) -> Response:
        if not (isinstance(body, CompletionBody) and body.echo and body.logprobs is not None):
            raise Refused("max_tokens 0 generates nothing: add echo and logprobs to score the prompt.", "max_tokens")
        if len(answer.prompt_tokens) < 2:
            raise Refused("A prompt of one token has nothing to score: send two or more.", "prompt")
        start = min(max(1, body.logprob_start_len), len(answer.prompt_tokens) - 1)
        score = await served.host.score(answer.prompt_tokens, start)
        by_id = body.return_tokens_as_token_ids
        return JSONResponse(scored(answer, score, start, count=max(1, body.logprobs), by_id=by_id))

    async def chat(request: Request) -> Response:
        return await answer_call(request, ChatBody)

    async def complete(request: Request) -> Response:
        return await answer_call(request, CompletionBody)

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
        tokens = await served.prompts.tokenized(body)
        return JSONResponse({"count": len(tokens), "max_model_len": served.context_length, "tokens": tokens})

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
            Route("/v1/models", models),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/health", health),
            Route("/kernels", kernels),
            Route("/metrics", metrics),
        ],
        exception_handlers={
            Refused: _refused,
            ModelError: _refused,
            EngineRefused: _refused,
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
        first = error.errors(include_url=False)[0]
        param = str(first["loc"][0]) if first["loc"] else None
        raise Refused(f"{param or 'The body'}: {first['msg']}.", param) from None


def _check_model(served: Served, body: Body) -> None:
    if body.model and body.model not in served.names:
        known = ", ".join(map(repr, served.names))
        raise HTTPException(404, f"The model {body.model!r} is not served here: use {known}.")


async def _refused(_: Request, error: Exception) -> Response:
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    return JSONResponse(error_body(str(error), "invalid_request_error", param, code), status_code=400)


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
        served = Served(engine, hosted, tokenizer, prompts, tuple(description["names"]), context_length)
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
