"""The grammar of a schema takes the documents that hold it, and no others: read by llguidance, held against
jsonschema-rs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from pennyweight.engines.openvino.json_grammar import LARGEST, json_grammar
from pennyweight.openai_api.json_schema import followed

Accepts = Callable[[str], bool]
BYTES = LLTokenizer("byte")


def reader(schema: dict[str, Any], *, compact: bool = False) -> Accepts:
    """Whether a text is a whole document of the schema's grammar."""
    grammar = json_grammar(json.loads(followed(schema)), compact=compact)
    rules = LLMatcher.grammar_from_lark(any_to_lark(grammar))

    def accepts(text: str) -> bool:
        matcher = LLMatcher(BYTES, rules)
        assert not matcher.is_error(), matcher.get_error()
        tokens = BYTES.tokenize_str(text)
        return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())

    return accepts


NOTE = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "minLength": 1, "maxLength": 5},
        "polite": {"type": "boolean"},
        "words": {"type": "integer", "minimum": 1, "maximum": 500},
        "more": {"type": "array", "items": {"type": ["number", "null"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["topic", "words"],
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": {"type": "object", "properties": {"in": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}},
}
CASES: tuple[tuple[dict[str, Any], list[Any]], ...] = (
    (
        {**NOTE, "additionalProperties": False},
        [
            {"topic": "a", "words": 3},
            {"topic": 'äö\n"\\', "polite": True, "words": 500, "more": [1, -2.5, None]},
            {"topic": "a", "words": 3, "more": []},
            {"topic": "a", "words": 3, "more": [1, 2, 3, 4]},
            {"topic": "", "words": 3},
            {"topic": "aaaaaa", "words": 3},
            {"topic": "a", "words": 501},
            {"topic": "a", "words": 2.5},
            {"topic": "a"},
            {"topic": "a", "words": 3, "other": 1},
            {"topic": "a", "polite": 1, "words": 3},
            [],
        ],
    ),
    (
        {**NOTE, "additionalProperties": {"type": "null"}},
        [
            {"topic": "a", "words": 3, "to": None, "topical": None, "": None},
            {"topic": "a", "words": 3, "to": 1},
            {"topic": "a", "polite": None, "words": 3},
        ],
    ),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"a": 1, "b": -20}, {"a": "1"}]),
    ({"type": "object"}, [{}, {"a": {"b": [1, {"c": None}]}}, [], "x"]),
    ({}, [None, True, -1.5e3, "ü", [1, [2]], {"a": [{}]}]),
    (TREE, [{}, {"in": []}, {"in": [{"in": [{}, {}]}]}, {"in": [1]}]),
    ({"anyOf": [{"type": "string"}, {"type": "array", "maxItems": 0}]}, ["a", [], [1], 1]),
    ({"enum": ["a b", 'ü"\n', 3, None, [1, 2]]}, ["a b", 'ü"\n', 3, None, [1, 2], "a", 4]),
    ({"type": "number", "minimum": -3, "maximum": 12}, [-3, -2.999, 0, 0.5, 11.99, 12, 12.01, -3.001, 13]),
)


@pytest.mark.parametrize(("schema", "values"), CASES)
def test_a_document_is_taken_if_it_holds_the_schema(schema: dict[str, Any], values: list[Any]) -> None:
    accepts = reader(schema)
    for value in values:
        held = jsonschema_rs.is_valid({"additionalProperties": True, **schema}, value)
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
            assert accepts(text) is held or ((schema.get("enum") and "\\u" in text) or "\n " in text), text


def test_blanks_between_parts_come_to_an_end() -> None:
    accepts = reader({"type": "array"})
    assert accepts("[\n        1]") and not accepts("[" + " " * 9 + "1]") and not accepts("[\n\n1]")


def test_a_compact_document_has_none() -> None:
    accepts = reader({"type": "array"}, compact=True)
    assert accepts("[1,2]") and not accepts("[1, 2]")


@settings(max_examples=60, deadline=None)
@given(
    bounds=st.lists(st.integers(-(2**31), 2**31) | st.integers(-130, 130), min_size=2, max_size=2).map(sorted),
    step=st.integers(-12, 12),
    kind=st.sampled_from(["integer", "number"]),
)
def test_numbers_keep_their_bounds(bounds: list[int], step: int, kind: str) -> None:
    low, high = bounds
    accepts = reader({"type": kind, "minimum": low, "maximum": high})
    for number in (low, high, low + step, high + step, (low + high) // 2):
        assert accepts(str(number)) is (low <= number <= high)
        inside = low < float(f"{number}.5") < high
        assert accepts(f"{number}.5") is (inside and kind == "number")
    assert not accepts(str(LARGEST * 10))
