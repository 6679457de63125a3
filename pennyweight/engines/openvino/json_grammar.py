"""A JSON schema as a grammar (EBNF, as xgrammar reads it) in which blanks between two parts are bounded.

OpenVINO GenAI's own conversion allows any number of blanks there, and has no setting for it: a small model that likes
blanks can write them until its answer is cut. Read here is the subset that openai_api/json_schema.py lets through, in
its own writing.

An object with `properties` holds these and, without `additionalProperties`, no others, in the order of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
BY_WORD = {"properties": "object", "required": "object", "additionalProperties": "object"}
BY_WORD |= dict.fromkeys(("items", "minItems", "maxItems"), "array")
DIGITS = 15  # of a number: what every parser of JSON keeps, and an end for a model that goes on
LARGEST = 10**DIGITS - 1
BLANK, NONE = r"[\n]? [ ]{0,8}", '""'  # as engines/batching/grammar.py: room to indent
SHARED = r"""
char ::= [^\x00-\x1f"\\] | "\\" (["\\/bfnrt] | "u" ([0-9a-cefA-CEF] hex hex hex | [dD] [0-7] hex hex))
plain ::= [^\x00-\x1f"\\]
hex ::= [0-9a-fA-F]
fraction ::= "." [0-9]{1,15}
integer ::= "0" | "-"? [1-9] [0-9]{0,14}
number ::= "-"? ("0" | [1-9] [0-9]{0,14}) fraction? ([eE] [-+]? [0-9]{1,2})?
string ::= "\"" char* "\""
any ::= object | array | string | number | "true" | "false" | "null"
member ::= string blank ":" blank any
object ::= "{" blank (member blank ("," blank member blank)*)? "}"
array ::= "[" blank (any blank ("," blank any blank)*)? "]"
"""


def json_grammar(schema: Schema, *, compact: bool = False) -> str:
    """The grammar of the documents that hold this schema, with no blanks at all if `compact`. The schema is as
    `json_schema.followed` writes it."""
    made = _Rules(schema)
    return "\n".join([f"root ::= {made.root}", *made.rules, f"blank ::= {NONE if compact else BLANK}"]) + SHARED


class _Rules:
    """Named rules, one for each definition, array and object of a schema."""

    def __init__(self, schema: Schema) -> None:
        self.rules: list[str] = []
        names = [f"#/{kind}/{name}" for kind in ("$defs", "definitions") for name in schema.get(kind, {})]
        self._definitions = {name: f"definition{number}" for number, name in enumerate(names)}
        for place, rule in self._definitions.items():
            _, kind, name = place.split("/")
            self.rules.append(f"{rule} ::= {self._part(schema[kind][name])}")
        self.root = self._part(schema)

    def _named(self, body: str) -> str:
        name = f"part{len(self.rules)}"
        self.rules.append(f"{name} ::= {body}")
        return name

    def _part(self, part: Schema) -> str:
        """An expression for one place, in parentheses where it has alternatives."""
        if "$ref" in part:
            return self._definitions[part["$ref"]]
        if "anyOf" in part:
            return _either(self._part(option) for option in part["anyOf"])
        if "const" in part or "enum" in part:
            values = [part["const"]] if "const" in part else part["enum"]
            return _either(literal(json.dumps(value, ensure_ascii=False)) for value in values)
        kinds = part.get("type") or next((BY_WORD[word] for word in part if word in BY_WORD), None)
        if kinds is None and not part.keys() - {"$defs", "definitions"}:
            return "any"
        chosen = [kinds] if isinstance(kinds, str) else kinds or TYPES
        return _either(self._kind(kind, part) for kind in chosen)

    def _kind(self, kind: str, part: Schema) -> str:
        if kind == "object":
            return self._object(part)
        if kind == "array":
            return self._array(part)
        if kind == "string":
            repeated = _times(part.get("minLength", 0), part.get("maxLength"))
            return "string" if repeated == "*" else rf'"\"" char{repeated} "\""'
        if kind in ("integer", "number"):
            bounded = "minimum" in part or "maximum" in part
            low, high = part.get("minimum", -LARGEST), part.get("maximum", LARGEST)
            return _either(numbers_between(low, high, whole=kind == "integer")) if bounded else kind
        return '("true" | "false")' if kind == "boolean" else '"null"'

    def _array(self, part: Schema) -> str:
        least, most = part.get("minItems", 0), part.get("maxItems")
        if most == 0:
            return '"[" blank "]"'
        item = self._part(part.get("items", {}))
        more = f'("," blank {item} blank){_times(max(0, least - 1), None if most is None else most - 1)}'
        inside = f"{item} blank {more}"
        return self._named(f'"[" blank {inside if least else f"({inside})?"} "]"')

    def _object(self, part: Schema) -> str:
        properties, required = part.get("properties", {}), set(part.get("required", ()))
        open_to = part.get("additionalProperties", not properties)
        further = None
        if open_to is not False:
            value = "any" if open_to is True else self._part(open_to)
            key = f'"\\"" {self._other_than(list(properties))} "\\""' if properties else "string"
            further = self._named(f'{key} blank ":" blank {value} blank')
        members = [
            (
                f'{literal(json.dumps(name, ensure_ascii=False))} blank ":" blank {self._part(value)} blank',
                name in required,
            )
            for name, value in properties.items()
        ]
        return self._named(f'"{{" blank {self._members(members, further)} "}}"')

    def _members(self, members: Sequence[tuple[str, bool]], further: str | None) -> str:
        """What may follow the opening brace: members in their order, of which those that are not required may be left
        out, then any number of further ones. `after[n]` is what may follow where one of the first n was written."""
        after = self._named(f'("," blank {further})*') if further else '""'
        first = f"({further} {after})?" if further else '""'
        for member, required in reversed(members):
            name, here = self._named(member), after
            after = self._named(f'"," blank {name} {here}' if required else f'("," blank {name} {here}) | {here}')
            first = f"{name} {here}" if required else self._named(f"({name} {here}) | {first}")
        return first

    def _other_than(self, names: Sequence[str]) -> str:
        """The inside of a key that is none of these names: a tree of their letters, left at some letter or too early.
        Without escapes, by which a key can be spelled in several ways."""
        ways = []
        letters = dict.fromkeys(name[0] for name in names if name)
        for letter in letters:
            ways.append(f"{literal(letter)} {self._other_than([n[1:] for n in names if n.startswith(letter)])}")
        excluded = "".join(_in_class(letter) for letter in letters)
        ways.append(rf'[^\x00-\x1f"\\{excluded}] plain*')
        if "" not in names:
            ways.append('""')
        return _either(ways)


def literal(text: str) -> str:
    """A text as a terminal."""
    return json.dumps(text, ensure_ascii=False)


def _in_class(letter: str) -> str:
    return f"\\{letter}" if letter in "]^-\\" else letter


def _either(alternatives: Iterator[str] | Sequence[str]) -> str:
    found = list(dict.fromkeys(alternatives))
    return found[0] if len(found) == 1 else f"({' | '.join(found)})"


def _times(least: int, most: int | None) -> str:
    if most is None:
        return "*" if least == 0 else f"{{{least},}}"
    return f"{{{least},{most}}}"


# -- numbers --


def numbers_between(low: int, high: int, *, whole: bool) -> Iterator[str]:
    """Alternatives for the numbers from `low` to `high`, these included; with up to 15 decimals unless `whole`."""
    low, high = max(low, -LARGEST), min(high, LARGEST)
    for sign, least, most in (("", max(low, 0), high), ('"-" ', max(1, -high), -low)):
        if least <= most:
            yield from (sign + digits for digits in _digits(least, most))
        if not whole and max(least, 0) < most:
            start = 0 if sign and high >= 0 else least
            yield from (f"{sign}({digits}) fraction" for digits in _digits(start, most - 1))


def _digits(low: int, high: int) -> Iterator[str]:
    """The whole numbers from `low` to `high`, both at least 0: first those of each length, then those of one."""
    while len(str(low)) < len(str(high)):
        top = 10 ** len(str(low)) - 1
        yield from _of_one_length(str(low), str(top))
        low = top + 1
    yield from _of_one_length(str(low), str(high))


def _of_one_length(low: str, high: str) -> Iterator[str]:
    rest = len(low) - 1
    if rest == 0:
        yield f"[{low}-{high}]"
    elif low[0] == high[0]:
        yield from (f'"{low[0]}" {digits}' for digits in _of_one_length(low[1:], high[1:]))
    elif low[1:] == "0" * rest and high[1:] == "9" * rest:
        yield f"[{low[0]}-{high[0]}] [0-9]{{{rest}}}"
    elif low[1:] != "0" * rest:
        yield from _of_one_length(low, low[0] + "9" * rest)
        yield from _of_one_length(str(int(low[0]) + 1) + "0" * rest, high)
    else:
        yield from _of_one_length(low, str(int(high[0]) - 1) + "9" * rest)
        yield from _of_one_length(high[0] + "0" * rest, high)
