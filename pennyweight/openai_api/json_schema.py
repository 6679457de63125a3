"""JSON schemas for structured outputs: a subset of JSON Schema 2020-12, close to what OpenAI documents. A schema
outside the subset is refused, and an accepted one is rewritten in canonical form before an engine sees it. This is
because an engine that fails on a schema fails in the middle of a step, with all other requests (OpenVINO GenAI 2026.4
with xgrammar), and one that must follow too many alternatives hangs (llama.cpp).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pennyweight.errors import EngineRefused

TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
REMARKS = ("title", "description", "default", "examples", "$schema", "$comment", "deprecated", "readOnly", "strict")
DEFINITIONS = ("$defs", "definitions")
ARRAY_WORDS = {"items", "minItems", "maxItems"}
COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
BOUNDS = (("minItems", "maxItems"), ("minLength", "maxLength"), ("minimum", "maximum"))
MAX_BYTES, MAX_PARTS, MAX_VALUES, DEEPEST = 2**16, 200, 200, 32
MAX_REPEATED, MAX_REPEATED_IN_ALL = 1000, 10_000
MAX_BEGINNINGS = {"array": 1, "object": 8}  # of alternatives for one place: a parser follows all that begin alike
MAX_ALTERNATIVES = 64
LARGEST, LARGEST_VALUE = 2**31, 2**53
NAME = re.compile(r'[^"\\\x00-\x1f\x7f]+')  # others break xgrammar's own text of the grammar
REFERENCE = re.compile(r"#/(\$defs|definitions)/([\w.-]+)")
Schema = dict[str, Any]


def followed(schema: Mapping[str, Any]) -> str:
    """The rewritten schema as JSON for an engine. Raises `EngineRefused` for what is not supported."""
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except ValueError:
        raise EngineRefused("The JSON schema contains a number that is none (NaN or Infinity).") from None
    if size > MAX_BYTES:
        raise EngineRefused(f"The JSON schema is larger than {MAX_BYTES:,} bytes: make it smaller.")
    made = _Rewriting().part("schema", schema, 0)
    definitions = {f"#/{kind}/{name}": part for kind in DEFINITIONS for name, part in made.get(kind, {}).items()}
    for place, part in _parts("schema", made):
        kinds = list(_beginnings(place, part, definitions, ()))
        for kind, most in MAX_BEGINNINGS.items():
            if kinds.count(kind) > most:
                raise EngineRefused(f"{place}: more than {most} alternatives are an {kind}: leave fewer.")
    _check_ends([made, *definitions.values()], definitions)
    return json.dumps(made)


class _Rewriting:
    """Rewrites one schema and counts its parts against the limits."""

    def __init__(self) -> None:
        self._parts = self._repeated = 0

    def part(self, place: str, part: Any, depth: int) -> Schema:
        self._parts += 1
        if self._parts > MAX_PARTS or depth > DEEPEST:
            raise EngineRefused(
                f"The JSON schema has more than {MAX_PARTS} parts or {DEEPEST} levels: make it smaller."
            )
        if part is True:
            return {}
        if not isinstance(part, dict):
            raise EngineRefused(f"{place}: a JSON schema is an object.")
        made = {word: value for word, value in part.items() if word not in REMARKS}
        for word, value in made.items():
            if word not in WORDS:
                raise EngineRefused(f"{place}: the keyword {word[:40]!r} is not supported: remove it.")
            if not WORDS[word](value):
                raise EngineRefused(f"{place}: {word} cannot be {str(value)[:60]!r} here.")
        _check_together(place, made)
        self._repeated += sum(made.get(word, 0) for word in COUNTS)
        if self._repeated > MAX_REPEATED_IN_ALL:
            raise EngineRefused(f"{place}: all lengths together are more than {MAX_REPEATED_IN_ALL:,}: lower them.")
        return self._inside(place, made, depth + 1)

    def _inside(self, place: str, made: Schema, depth: int) -> Schema:
        for word in ("properties", *DEFINITIONS):
            if word in made:
                inside = made[word].items()
                made[word] = {name: self.part(f"{place}.{name[:40]}", value, depth) for name, value in inside}
        if "anyOf" in made:
            options = enumerate(made["anyOf"])
            made["anyOf"] = [self.part(f"{place}.anyOf[{n}]", value, depth) for n, value in options]
            if len({json.dumps(option) for option in made["anyOf"]}) < len(made["anyOf"]):
                raise EngineRefused(f"{place}: two alternatives are the same: remove one.")
        more = made.get("additionalProperties", False)
        if more is not False:
            made["additionalProperties"] = self.part(f"{place}.additionalProperties", more, depth)
        is_array = "type" in made and "array" in _kinds(made)
        if is_array or ARRAY_WORDS & made.keys():  # without `items`, xgrammar takes no items at all
            made["items"] = self.part(f"{place}.items", made.get("items", True), depth)
        if made.get("minimum", 0) < 0:
            made.setdefault("maximum", LARGEST)  # without it, xgrammar generates invalid numbers
        return made


def _check_together(place: str, part: Schema) -> None:
    alone = [word for word in ("$ref", "anyOf", "enum", "const") if word in part]
    others = [word for word in part if word not in (*alone[:1], *DEFINITIONS, "type")]
    if alone and (others or (alone[0] in ("$ref", "anyOf") and "type" in part)):
        raise EngineRefused(f"{place}: {alone[0]} cannot stand beside {(others or ['type'])[0]} here.")
    for least, most in BOUNDS:
        if least in part and most in part and part[least] > part[most]:
            raise EngineRefused(f"{place}: {least} is above {most}.")
    missing = [name for name in part.get("required", ()) if name not in part.get("properties", {})]
    if missing:
        raise EngineRefused(f"{place}: {missing[0][:40]!r} is required but no property has this name.")


def _parts(place: str, part: Schema) -> Iterator[tuple[str, Schema]]:
    """A schema that was written anew, and all schemas inside of it."""
    yield place, part
    for word in ("properties", *DEFINITIONS):
        for name, inside in part.get(word, {}).items():
            yield from _parts(f"{place}.{name[:40]}", inside)
    for inside in [*part.get("anyOf", ()), part.get("items"), part.get("additionalProperties")]:
        if inside:
            yield from _parts(place, inside)


def _beginnings(place: str, part: Schema, definitions: Mapping[str, Schema], trail: Sequence[str]) -> Iterator[str]:
    """What an answer may begin with at this place, once for each way that leads there."""
    ways = [(inside, trail) for inside in part.get("anyOf", ())]
    if name := part.get("$ref"):
        if name not in definitions:
            raise EngineRefused(f"{place}: there is no {name[:60]}.")
        if name in trail:
            raise EngineRefused(f"{place}: {name[:60]} leads to itself.")
        ways = [(definitions[name], (*trail, name))]
    found_alternatives = 0
    for inside, behind in ways:
        for kind in _beginnings(place, inside, definitions, behind):
            found_alternatives += 1
            if found_alternatives > MAX_ALTERNATIVES:
                raise EngineRefused(f"{place}: there are more than {MAX_ALTERNATIVES} alternatives: leave fewer.")
            yield kind
    if not ways:
        yield from _kinds(part)


def _kinds(part: Schema) -> Sequence[str]:
    """The types that a part without alternatives names, or all."""
    if "enum" in part or "const" in part:
        return ("value",)
    kinds = part.get("type", TYPES)
    return [kinds] if isinstance(kinds, str) else kinds


def _check_ends(parts: Sequence[Schema], definitions: Mapping[str, Schema]) -> None:
    """Check that every definition allows a finite answer."""
    ending: set[str] = set()

    def ends(part: Schema) -> bool:
        if "$ref" in part:
            return part["$ref"] in ending
        if "anyOf" in part:
            return any(ends(option) for option in part["anyOf"])
        kinds = _kinds(part)
        array = part.get("minItems", 0) == 0 or ends(part.get("items", {}))
        whole = all(ends(part["properties"][name]) for name in part.get("required", ()))
        return any(kind not in ("array", "object") or (array if kind == "array" else whole) for kind in kinds)

    while more := {name for name, part in definitions.items() if name not in ending and ends(part)}:
        ending |= more
    if not all(ends(part) for part in parts):
        raise EngineRefused("The JSON schema recurses without end: make a property optional or add an alternative.")


def _kind(value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(isinstance(k, str) and k in TYPES for k in kinds) and len(set(kinds)) == len(kinds)


def _plain(value: Any) -> bool:
    """A value that every parser of JSON reads alike."""
    if isinstance(value, dict):
        return all(NAME.fullmatch(name) and _plain(inside) for name, inside in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return not isinstance(value, (int, float)) or abs(value) <= LARGEST_VALUE


def _values(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_VALUES and _plain(value)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_REPEATED


def _bound(value: Any) -> bool:
    return type(value) is int and abs(value) <= LARGEST


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _named(value: Any) -> bool:
    return isinstance(value, dict) and all(NAME.fullmatch(name) for name in value)


def _options(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0


def _schema(value: Any) -> bool:
    return isinstance(value, dict) or value is True


WORDS: Mapping[str, Callable[[Any], bool]] = {
    "type": _kind,
    "properties": _named,
    "required": _names,
    "items": _schema,
    "enum": _values,
    "const": _plain,
    "additionalProperties": lambda value: _schema(value) or value is False,
    "anyOf": _options,
    "$defs": _named,
    "definitions": _named,
    "$ref": lambda value: isinstance(value, str) and REFERENCE.fullmatch(value) is not None,
    "minItems": _count,
    "maxItems": _count,
    "minLength": _count,
    "maxLength": _count,
    "minimum": _bound,
    "maximum": _bound,
}
