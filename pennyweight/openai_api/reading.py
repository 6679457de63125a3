"""Parts of a chat answer, and the JSON of calls while it is still being written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

NAME = re.compile(r'"name"\s*:\s*("(?:[^"\\]|\\.)*")')
ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*')

PARTS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|[{}\[\]]', re.DOTALL)  # what shows where a value ends


@dataclass(frozen=True)
class Call:
    """A call of a function. `arguments` is JSON, as far as it is written; `length` is what the call takes of the text,
    once it is whole."""

    name: str
    arguments: str
    length: int = 0


@dataclass(frozen=True)
class Reading:
    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()


def before_marker(text: str, marker: str, whole: bool) -> str:
    """The text before a marker, or before what may become one."""
    place = text.find(marker)
    if place >= 0:
        return text[:place]
    if whole:
        return text
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return text[:-length]
    return text


def before_calls(text: str, marker: str, whole: bool) -> str:
    """The same without the blanks at its end, which belong to the calls if there are some."""
    found = before_marker(text, marker, whole)
    return found if whole and marker not in text else found.rstrip()


def json_calls(text: str) -> Iterator[Call]:
    """The calls of a JSON array, or of one object."""
    rest = text.removeprefix("[").lstrip()
    while rest.startswith("{"):
        call = json_call(rest)
        if call is None:
            return
        yield call
        if not call.length:
            return
        rest = rest[call.length :].lstrip(", \n\t")


def json_call(text: str) -> Call | None:
    """The call that this object is; None while its name is not known. Its arguments are passed on as they are written;
    where the name stands after them, or where they are JSON inside of a text, when the object is whole."""
    end = value_end(text)
    if end is not None and (call := _whole_call(text[:end], end)) is not None:
        return call
    name, arguments = NAME.search(text), ARGUMENTS.search(text)
    if name is None or (arguments and arguments.start() < name.start()):
        return None
    begun = text[arguments.end() : end] if arguments else ""
    if begun.startswith('"'):
        begun = ""
    stop = value_end(begun) if begun else None
    try:
        return Call(json.loads(name[1]), begun if stop is None else begun[:stop], end or 0)
    except ValueError:  # an escape that JSON does not have
        return None


def _whole_call(text: str, length: int) -> Call | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    found = ARGUMENTS.search(text)
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        return Call(value["name"], arguments, length)
    raw = text[found.end() :] if found else ""
    stop = value_end(raw) if raw else None
    written = raw[:stop] if stop and _reads_as(raw[:stop], arguments) else json.dumps(arguments, ensure_ascii=False)
    return Call(value["name"], written, length)


def _reads_as(text: str, value: object) -> bool:
    try:
        return bool(json.loads(text) == value)
    except ValueError:
        return False


def value_end(text: str) -> int | None:
    """Where the JSON object or array at the beginning ends; None while it does not, or if there is none."""
    depth = 0
    for found in PARTS.finditer(text):
        if found[0] in "{[":
            depth += 1
        elif found[0] in "}]":
            depth -= 1
            if depth <= 0:
                return found.end() if depth == 0 else None
        elif found[0][0] != '"' or (len(found[0]) < 2 or not found[0].endswith('"')):
            return None  # a string that is still open
        if not depth:
            return None
    return None
