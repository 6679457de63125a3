"""Tools of a chat: what is offered, what may be called, and the schema that forces a call.

Source: OpenAI's API reference for function calling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_CALLS = 8  # in one forced answer
NAME = r"^[a-zA-Z0-9_.-]{1,64}$"


class Function(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        return self.parameters or {"type": "object", "properties": {}, "additionalProperties": False}


class Tool(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["function"] = "function"
    function: Function

    def plain(self) -> dict[str, Any]:
        """As chat templates take it."""
        function = self.function
        made: dict[str, Any] = {"name": function.name}
        made |= {"description": function.description} if function.description else {}
        made["parameters"] = function.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": made}


def chosen_tool(choice: str | Mapping[str, Any], tools: Sequence[Tool]) -> str | None:
    """The name of the tool that must be called, if one must; "" where any must, None where none must. Raises
    `ValueError` for a choice that cannot be."""
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise ValueError("tool_choice is none, auto, required, or an object that names a function")
        if choice == "required" and not tools:
            raise ValueError("tool_choice required needs tools")
        return "" if choice == "required" else None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else choice.get("name")
    if choice.get("type", "function") != "function" or not isinstance(name, str):
        raise ValueError('tool_choice is none, auto, required, or {"type": "function", "function": {"name": …}}')
    if name not in [tool.function.name for tool in tools]:
        raise ValueError(f"tool_choice names {name[:64]!r}, and tools has no function of this name")
    return name


def forced_schema(tools: Sequence[Tool], name: str, *, parallel: bool) -> dict[str, Any]:
    """The JSON schema of an answer that is one or more calls; `name` is the one function that may be called, or
    empty."""
    calls = [_call_schema(tool) for tool in tools if name in ("", tool.function.name)]
    one = calls[0] if len(calls) == 1 else {"anyOf": calls}
    definitions: dict[str, Any] = {}
    for call in calls:
        parameters = call["properties"]["arguments"]
        for kind in ("$defs", "definitions"):
            definitions.setdefault(kind, {}).update(parameters.pop(kind, {}))
    made = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_CALLS if parallel and not name else 1}
    return made | {kind: parts for kind, parts in definitions.items() if parts}


def _call_schema(tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.function.name}, "arguments": dict(tool.function.schema_of_arguments)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
