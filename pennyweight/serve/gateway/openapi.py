"""The gateway's OpenAPI description, with the pydantic models that the worker validates bodies with."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, Field

from pennyweight.openai_api.bodies import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingsBody,
    Message,
    TokenizeBody,
)

PLACES = re.compile(r"{(\w+)}")
REFERENCE = "#/components/schemas/{model}"
ERRORS = {
    400: "The request cannot be answered as it is",
    401: "The API key is missing or unknown",
    404: "No such model or path",
    408: "The body did not come in time",
    413: "The body is too large",
    507: "The disk is full",
    429: "Over a limit, or the queue is too long: see Retry-After",
    503: "No engine is running at the moment",
}


class ResponseText(BaseModel):
    format: dict[str, Any] | None = None


class ResponsesBody(BaseModel):
    model: str = ""
    input: str | list[Message]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    text: ResponseText | None = None
    stream: bool = False
    background: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)


class MessagesBody(BaseModel):
    model: str = ""
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    stream: bool = False
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None


class OllamaBody(BaseModel):
    model: str = ""
    stream: bool = True
    format: Literal["json"] | dict[str, Any] | None = None
    options: dict[str, Any] | None = None


class OllamaChatBody(OllamaBody):
    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None


class OllamaGenerateBody(OllamaBody):
    prompt: str = Field(min_length=1)
    system: str | None = None


class BatchesBody(BaseModel):
    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
    completion_window: Literal["24h"] = "24h"
    metadata: dict[str, str] | None = None


BODIES: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (ChatBody, "Answer a conversation"),
    "/v1/completions": (CompletionBody, "Continue a text, or score it"),
    "/v1/responses": (ResponsesBody, "Answer in the newer API's shape"),
    "/v1/messages": (MessagesBody, "Answer in the shape of Anthropic's API"),
    "/v1/messages/count_tokens": (MessagesBody, "Count a conversation's tokens"),
    "/v1/embeddings": (EmbeddingsBody, "Vectors of texts"),
    "/api/chat": (OllamaChatBody, "Answer in the shape of Ollama's API"),
    "/api/generate": (OllamaGenerateBody, "Answer one text in the shape of Ollama's API"),
    "/tokenize": (TokenizeBody, "A text's or a conversation's tokens"),
    "/detokenize": (DetokenizeBody, "A text of tokens"),
    "/v1/batches": (BatchesBody, "Answer a file of requests at low priority"),
}
STREAMS = dict.fromkeys(list(BODIES)[:4], "text/event-stream")
STREAMS |= dict.fromkeys(("/api/chat", "/api/generate"), "application/x-ndjson")
UPLOAD = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string", "enum": ["batch"]}},
}
LOOKS = {
    "/v1/models": "The model that is served",
    "/version": "Which release this is",
    "/api/tags": "The models that are served, as Ollama lists them",
    "/health": "Whether the gateway is running",
    "/ready": "Whether an engine is ready",
    "/metrics": "Prometheus figures",
    "/status": "What the page shows",
    "/v1/models/{name}": "One model",
    "/v1/responses/{name}": "A response that was kept",
    "/v1/files": "Files of this key",
    "/v1/files/{file}": "One file",
    "/v1/files/{file}/content": "What is in it",
    "/v1/batches": "Batches of this key",
    "/v1/batches/{batch}": "One batch, and how far it is",
}


def description(served: str) -> dict[str, Any]:
    schemas: dict[str, Any] = {"Error": ERROR}
    paths: dict[str, Any] = {}
    for path, (body, summary) in BODIES.items():
        schema = body.model_json_schema(by_alias=True, ref_template=REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        content = {"application/json": {"schema": {"$ref": REFERENCE.format(model=body.__name__)}}}
        paths[path] = {"post": _operation(path, summary, {"requestBody": {"required": True, "content": content}})}
    form = {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD}}}
    paths["/v1/files"] = {"post": _operation("/v1/files", "Keep a file of requests", {"requestBody": form})}
    paths["/v1/files/{file}"] = {"delete": _operation("/v1/files/{file}", "Remove it", {})}
    cancel = "/v1/batches/{batch}/cancel"
    paths[cancel] = {"post": _operation(cancel, "Answer no more of it", {})}
    kept = "/v1/responses/{name}"
    paths[kept] = {"delete": _operation(kept, "Forget it", {})}
    for path, summary in LOOKS.items():
        paths.setdefault(path, {})["get"] = _operation(path, summary, {})
    return {
        "openapi": "3.1.0",
        "info": {"title": f"pennyweight gateway: {served}", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _operation(path: str, summary: str, more: dict[str, Any]) -> dict[str, Any]:
    shape = {"application/json": {"schema": {"$ref": REFERENCE.format(model="Error")}}}
    refusals = {str(status): {"description": text, "content": shape} for status, text in ERRORS.items()}
    answer: dict[str, Any] = {"description": "As OpenAI answers"}
    if path in BODIES:
        answer["content"] = {"application/json": {"schema": {"type": "object"}}}
        answer["content"] |= {STREAMS[path]: {"schema": {"type": "string"}}} if path in STREAMS else {}
    made = {"summary": summary, "responses": {"200": answer, **refusals}, **more}
    text = {"in": "path", "required": True, "schema": {"type": "string"}}
    return made | {"parameters": [{"name": name, **text} for name in PLACES.findall(path)]}


ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
