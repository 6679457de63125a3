"""The gateway's OpenAPI description, its bodies from the very models that the engines' face checks them with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from pennyweight.engines.api import ChatBody, CompletionBody, Message, TokenizeBody

REFERENCE = "#/components/schemas/{model}"
ERRORS = {
    400: "The request cannot be answered as it is", 401: "The API key is missing or unknown",
    404: "No such model or path", 408: "The body did not come in time", 413: "The body is too large",
    429: "Over a limit, or the queue is too long: see Retry-After", 503: "No engine is running at the moment",
}  # fmt: skip


class ResponsesBody(BaseModel):
    model: str = ""
    input: str | list[Message]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool = False


BODIES: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (ChatBody, "Answer a conversation"),
    "/v1/completions": (CompletionBody, "Continue a text, or score it"),
    "/v1/responses": (ResponsesBody, "Answer in the newer API's shape, text only"),
    "/tokenize": (TokenizeBody, "A text's tokens"),
}
LOOKS = {
    "/v1/models": "The model that is served", "/health": "Whether the gateway lives",
    "/ready": "Whether an engine can be asked", "/metrics": "Prometheus figures", "/status": "What the page shows",
}  # fmt: skip


def description(served: str) -> dict[str, Any]:
    schemas: dict[str, Any] = {"Error": ERROR}
    paths: dict[str, Any] = {}
    for path, (body, summary) in BODIES.items():
        schema = body.model_json_schema(by_alias=True, ref_template=REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        content = {"application/json": {"schema": {"$ref": REFERENCE.format(model=body.__name__)}}}
        paths[path] = {"post": _operation(summary, {"requestBody": {"required": True, "content": content}})}
    for path, summary in LOOKS.items():
        paths[path] = {"get": _operation(summary, {})}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"pennyweight gateway: {served}", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _operation(summary: str, more: dict[str, Any]) -> dict[str, Any]:
    shape = {"application/json": {"schema": {"$ref": REFERENCE.format(model="Error")}}}
    refusals = {str(status): {"description": text, "content": shape} for status, text in ERRORS.items()}
    return {"summary": summary, "responses": {"200": {"description": "As OpenAI answers"}, **refusals}, **more}


ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"}, "type": {"type": "string"},
                "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]},
            },
        }
    },
}  # fmt: skip
