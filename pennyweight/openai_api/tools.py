"""Tools of a chat: what is offered, what may be called, and the schema that forces a call.

Source: OpenAI's API reference for function calling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DEFINITIONS = ("$defs", "definitions")
MAX_CALLS = 8  # in one forced answer
NAME = r"^[a-zA-Z0-9_.-]{1,64}$"


class Function(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        return self.parameters or {"type": "object", "properties": {}, "additionalProperties": False}


class Tool(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["function"] = "function"
    cache_control: Any = None  # a mark for other providers' caches
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
    definitions: dict[str, Any] = {}
    calls = [
        _call_schema(tool, f"{number}.", definitions)
        for number, tool in enumerate(tools)
        if name in ("", tool.function.name)
    ]
    one = calls[0] if len(calls) == 1 else {"anyOf": calls}
    made = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_CALLS if parallel and not name else 1}
    return made | ({"$defs": definitions} if definitions else {})


def _call_schema(tool: Tool, prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """References keep their meaning: what a tool defines gets names of its own, and what refers into its parameters
    finds them among the definitions."""
    parameters = dict(tool.function.schema_of_arguments)
    own = {name: part for kind in DEFINITIONS for name, part in (parameters.pop(kind, None) or {}).items()}
    whole = f"#/$defs/{prefix}parameters"

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [renamed(one) for one in value]
        if not isinstance(value, dict):
            return value
        made = {key: renamed(inside) for key, inside in value.items()}
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            kind, _, name = reference.removeprefix("#/").partition("/")
            made["$ref"] = f"#/$defs/{prefix}{name}" if kind in DEFINITIONS else whole + reference[1:]
        return made

    definitions |= {prefix + name: renamed(part) for name, part in own.items()}
    arguments = renamed(parameters)
    if whole in json.dumps([arguments, definitions]):
        definitions[f"{prefix}parameters"] = arguments
        arguments = {"$ref": whole}
    return {
        "type": "object",
        "properties": {"name": {"const": tool.function.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
