"""What an answer must follow, from the fields that ask for it: `response_format`, vLLM's `structured_outputs`, and the
`guided_…` fields that it had before.

Source: OpenAI's API reference for structured outputs; vLLM's documentation of structured outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pennyweight.errors import EngineRefused
from pennyweight.generation import Form

MAX_BYTES = 2**16
MAX_CHOICES = 1000
KINDS = {
    "json": "json_schema",
    "json_object": "json_schema",
    "choice": "choice",
    "regex": "regex",
    "grammar": "grammar",
}


class NamedSchema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = ""
    description: str | None = None
    strict: bool | None = None  # a schema is always followed
    definition: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type json_schema needs json_schema, an object with the schema")
        if self.type != "json_schema" and self.json_schema is not None:
            raise ValueError("json_schema needs the type json_schema")
        return self

    @property
    def requested_schema(self) -> dict[str, Any] | None:
        if self.type == "text":
            return None
        return self.json_schema.definition if self.json_schema else {"type": "object"}


def requested(body: Mapping[str, Any], response_format: ResponseFormat | None) -> tuple[str, Form] | None:
    """The field that asks for a form, and the form; None where the answer is free. Raises `EngineRefused`."""
    found: list[tuple[str, Form]] = []
    schema = response_format.requested_schema if response_format else None
    if schema is not None:
        found.append(("response_format", Form("json_schema", _written(schema))))
    named = body.get("structured_outputs")
    if named is not None and not isinstance(named, dict):
        raise EngineRefused("structured_outputs is an object with one of json, choice, regex and grammar.")
    for name, value in (named or {}).items():
        if value is None or (value is False and name == "json_object"):
            continue
        if name not in KINDS:
            raise EngineRefused(f"structured_outputs has no {name[:40]!r}: use one of {', '.join(KINDS)}.")
        found.append(("structured_outputs", _form(name, value)))
    for name, value in body.items():
        if name.startswith("guided_") and value is not None:
            found.append((name, _form(name.removeprefix("guided_"), value)))
    if named is not None and not found:
        raise EngineRefused("structured_outputs asks for nothing: it holds one of json, choice, regex and grammar.")
    if len(found) > 1:
        names = list(dict.fromkeys(name for name, _ in found))
        two = f"{names[0]} and {names[1]} both ask" if names[1:] else f"{names[0]} asks twice"
        raise EngineRefused(f"{two} for a form of the answer: send one.")
    return found[0] if found else None


def _form(name: str, value: Any) -> Form:
    if name == "json_object":
        if value is not True:
            raise EngineRefused("json_object is true, or left out.")
        return Form("json_schema", _written({"type": "object"}))
    if name == "json":
        return Form("json_schema", _written(_schema(value)))
    if name == "choice":
        texts = isinstance(value, list) and value and all(isinstance(one, str) and one for one in value)
        if not texts or len(value) > MAX_CHOICES:
            raise EngineRefused(f"choice is a list of 1 to {MAX_CHOICES} texts.")
        return Form("choice", _written(value))
    if not isinstance(value, str) or not value:
        raise EngineRefused(f"{name} is a text.")
    return Form("regex" if name == "regex" else "grammar", _bounded(value))


def _schema(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise EngineRefused("A JSON schema is an object.")
    return value


def _written(value: Any) -> str:
    try:
        return _bounded(json.dumps(value, allow_nan=False, ensure_ascii=False))
    except ValueError:
        raise EngineRefused("The JSON schema contains a number that is none (NaN or Infinity).") from None


def _bounded(text: str) -> str:
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise EngineRefused(f"What the answer must follow is larger than {MAX_BYTES:,} bytes: make it smaller.")
    return text
