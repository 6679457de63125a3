"""What is let through to the engines' grammars, and that what is let through does not make one stumble."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pennyweight import checkpoint, engines, techniques
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineRefused
from pennyweight.openai_api.json_schema import DEEPEST, LARGEST, MAX_PARTS, followed
from pennyweight.serve import open_engine
from pennyweight.techniques.quantize import Quantize

CHILD = {"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": False}
PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "children": {"type": "array", "items": {"$ref": "#/$defs/Child"}, "maxItems": 3},
        "mail": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"Child": CHILD},
}
AGAIN = {"$ref": "#/$defs/a"}
TREE = {**AGAIN, "$defs": {"a": {"type": "object", "properties": {"inside": {"type": "array", "items": AGAIN}}}}}
USUAL = [{}, PERSON, TREE, {"type": ["string", "null"]}, {"const": {"a": [1]}}]


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize("schema", [*USUAL, deep(DEEPEST)])
def test_what_programs_usually_ask_for_is_let_through(schema: dict[str, Any]) -> None:
    followed(schema)


@pytest.mark.parametrize(
    ("schema", "made"),
    [
        ({"type": "string", "title": "A", "default": "x"}, {"type": "string"}),
        ({"type": "array", "minItems": 1}, {"type": "array", "minItems": 1, "items": {}}),
        ({"properties": {"a": True}}, {"properties": {"a": {}}}),
        ({"type": "integer", "minimum": -5}, {"type": "integer", "minimum": -5, "maximum": LARGEST}),
    ],
)
def test_it_is_written_anew(schema: dict[str, Any], made: dict[str, Any]) -> None:
    assert json.loads(followed(schema)) == made


def chain(length: int) -> dict[str, Any]:
    """Twice as many ways from each definition to the next."""
    two = ({"anyOf": [{"$ref": f"#/$defs/a{n}"}, {"$ref": f"#/$defs/b{n}"}]} for n in range(1, length))
    defs = {f"{letter}{n}": part for n, part in enumerate(two) for letter in "ab"}
    return {"$ref": "#/$defs/a0", "$defs": {**defs, f"a{length - 1}": {"type": "null"}, f"b{length - 1}": {"const": 1}}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strange"}, "type"),
        ({"type": "string", "pattern": "a+"}, "pattern"),
        ({"oneOf": [{"type": "string"}]}, "oneOf"),
        ({"enum": []}, "enum"),
        ({"$ref": "#/$defs/nowhere"}, "no #/"),
        ({"$ref": "https://elsewhere/schema"}, "ref"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "itself"),
        ({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "itself"),
        ({"$ref": "#/$defs/a/b", "$defs": {"a/b": {}}}, "ref"),
        ({"$ref": 3, "$defs": {}}, "ref"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": []}}}, "ref"),
        ({"$ref": "#/$defs/a", "$defs": 3}, "defs"),
        ({"properties": 3, "required": ["a"]}, "properties"),
        ({"anyOf": {}}, "anyOf"),
        ({"type": []}, "type"),
        ({"const": "x" * 10**5}, "larger"),
        ({"properties": {str(n): {"type": "string", "maxLength": 1000} for n in range(20)}}, "together"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "above"),
        ({"type": "integer", "minimum": 0.5}, "minimum"),
        ({"type": "array", "items": False}, "items"),
        ({"properties": {"a": 1}}, "object"),
        ({"anyOf": [1.0]}, "object"),
        ({"properties": {'a"b': {}}}, "properties"),
        ({"properties": {"a\nb": {}}}, "properties"),
        ({"properties": {"": {}}}, "properties"),
        ({"enum": [float("inf")]}, "none"),
        ({"default": float("nan")}, "none"),
        ({"const": 10**400}, "const"),
        ({"anyOf": [{"type": "array"}, {"type": "array", "minItems": 1}]}, "alternatives"),
        ({"anyOf": [{"type": "null"}, {"type": "null", "title": "again"}]}, "same"),
        ({"anyOf": [{"type": "null"}], "type": "string"}, "beside"),
        (chain(12), "64 alternatives"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/a"}}}},
            "end",
        ),
        ({"type": "object", "properties": {}, "required": ["a"]}, "no property"),
        ({"properties": {"a": 3}}, "object"),
        ({"items": {"type": "string", "maxLength": 10**9}}, "maxLength"),
        (deep(DEEPEST + 1), "levels"),
        ({"properties": {str(n): {} for n in range(MAX_PARTS)}}, str(MAX_PARTS)),
    ],
)
def test_the_rest_is_refused_with_the_place(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineRefused, match=said):
        followed(schema)


NAMES = st.text("abcé {}'$%", min_size=1, max_size=5)
TEXTS = st.text('abcé "\\\n\t\x00\x7f€😀', max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | TEXTS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(NAMES, inside, max_size=3),
    max_leaves=4,
)


@st.composite
def bounded(draw: st.DrawFn, least: str, most: str, low: int, high: int, kinds: list[str]) -> dict[str, Any]:
    bounds = sorted(draw(st.lists(st.integers(low, high), min_size=2, max_size=2)))
    chosen = {name: bound for name, bound in zip((least, most), bounds, strict=True) if draw(st.booleans())}
    return {"type": draw(st.sampled_from(kinds)), **chosen}


@st.composite
def objects(draw: st.DrawFn, inside: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inside, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    made = {"type": "object", "properties": properties, "required": required}
    return made if draw(st.booleans()) else {**made, "additionalProperties": draw(st.just(False) | inside)}


LEAVES = (
    st.just({})
    | VALUES.map(lambda value: {"const": value})
    | st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values})
    | st.sampled_from(["string", "number", "boolean", "null", "object", "array"]).map(lambda kind: {"type": kind})
    | bounded("minLength", "maxLength", 0, 50, ["string"])
    | bounded("minimum", "maximum", -(10**6), 10**6, ["integer", "number"])
    | st.just({"$ref": "#/$defs/again"})
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inside: (
        objects(inside)
        | st.lists(inside, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
        | st.tuples(inside, bounded("minItems", "maxItems", 0, 5, ["array"])).map(lambda p: {**p[1], "items": p[0]})
        | bounded("minItems", "maxItems", 0, 5, ["array"])
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module", params=["openvino", "llamacpp"])
def client(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Iterator[openai.OpenAI]:
    if reason := engines.engine_class(request.param).missing():
        pytest.skip(reason)
    made = techniques.apply(Quantize("F16"), checkpoint.open_model(str(tiny_checkpoint)))
    with open_engine(Deployment(request.param, str(made.path), made.id, "F16", {"max_num_seqs": 2})) as endpoint:
        yield openai.OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(schema=SCHEMAS, again=SCHEMAS, seed=st.integers(0, 9))
def test_what_is_let_through_is_followed_or_refused_and_ends_no_engine(
    client: openai.OpenAI, schema: Any, again: Any, seed: int
) -> None:
    whole = {**schema, "$defs": {"again": again}}
    form = {"type": "json_schema", "json_schema": {"name": "any", "schema": whole}}
    try:
        reply = client.completions.create(
            model="model", prompt="hi", max_tokens=16, temperature=1, seed=seed, extra_body={"response_format": form}
        )
    except openai.BadRequestError:
        return
    if reply.choices[0].finish_reason == "stop":
        assert jsonschema_rs.is_valid(whole, json.loads(reply.choices[0].text)), (whole, reply.choices[0].text)
