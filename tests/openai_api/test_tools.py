"""Tools: which must be called, and the schema that holds an answer to a call."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from pennyweight.openai_api.tools import Tool, chosen_tool, forced_schema


def tool(name: str, parameters: dict[str, Any]) -> Tool:
    return Tool.model_validate({"type": "function", "function": {"name": name, "parameters": parameters}})


def fits(schema: dict[str, Any], *calls: tuple[str, Any]) -> bool:
    answer = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return jsonschema.Draft202012Validator(schema).is_valid(answer)


def test_definitions_of_two_tools_do_not_mix() -> None:
    tools = [
        tool(name, {"$defs": {"A": {"const": value}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}})
        for name, value in (("f", 1), ("g", 2))
    ]
    schema = forced_schema(tools, "", parallel=True)
    assert fits(schema, ("f", {"a": 1}), ("g", {"a": 2}))
    assert not fits(schema, ("f", {"a": 2})) and not fits(schema, ("g", {"a": 1}))


def test_references_into_parameters_keep_their_meaning() -> None:
    tree = {"type": "object", "properties": {"z": {"const": 3}, "y": {"$ref": "#/properties/z"}, "left": {"$ref": "#"}}}
    schema = forced_schema([tool("f", tree)], "f", parallel=True)
    assert fits(schema, ("f", {"y": 3, "left": {"y": 3}}))
    assert not fits(schema, ("f", {"y": 4})) and not fits(schema, ("f", {"left": {"y": 4}}))


def test_one_or_several_calls() -> None:
    tools = [tool("f", {"type": "object"}), tool("g", {"type": "object"})]
    assert not fits(forced_schema(tools, "g", parallel=True), ("f", {}))
    assert not fits(forced_schema(tools, "", parallel=False), ("f", {}), ("g", {}))
    assert not fits(forced_schema(tools, "", parallel=True))


@pytest.mark.parametrize("choice", ["perhaps", {"type": "function"}, {"function": {"name": "h"}}, {"type": "x"}])
def test_a_choice_that_cannot_be_is_refused(choice: Any) -> None:
    with pytest.raises(ValueError, match="tool_choice"):
        chosen_tool(choice, [tool("f", {})])
