"""Do two answers say the same? What counts is extracted from each: the number or the choice that it comes to, the JSON
that it is, or its words.

`compared` names which: `number`, `choice` (A to E), `choice yes|no` (these), `json` or `text`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
PUNCTUATION = " \t\r\n.,;:!?\"'`()[]{}*"
LETTERS = ("A", "B", "C", "D", "E")


def agree(first: str, second: str, compared: str) -> bool:
    """Where neither has what is compared, they agree if they are the same words."""
    kind, _, options = compared.partition(" ")
    if kind == "json":
        found = [_parsed(text) for text in (first, second)]
        return found[0] == found[1] if None not in found else found == [None, None] and first == second
    if kind == "number" and (numbers(first) or numbers(second)):
        return same_number(numbers(first)[-1:], numbers(second)[-1:])
    if kind == "choice":
        named = tuple(options.split("|")) if options else LETTERS
        chosen = [first_choice(text, named) for text in (first, second)]
        if chosen != [None, None]:
            return chosen[0] == chosen[1]
    return folded(first) == folded(second)


def asks_json(fields: Mapping[str, Any]) -> bool:
    """Does a request with these fields, whatever a client sends, ask for JSON?"""
    form = fields.get("response_format")
    return isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema")


def _parsed(text: str) -> tuple[object] | None:
    try:
        return (json.loads(text),)
    except ValueError:
        return None


def calls_in(message: Mapping[str, Any]) -> str:
    """The tool calls of a message, or of what a stream adds to one, as text to compare."""
    called = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    return "".join(f"{one.get('name') or ''}{one.get('arguments') or ''}" for one in called)


def same_number(first: Sequence[float], second: Sequence[float]) -> bool:
    """Of two lists of one number each; False where one is empty."""
    return bool(first and second) and abs(first[0] - second[0]) <= 1e-6 * max(1.0, abs(second[0]))


def numbers(text: str) -> list[float]:
    """Thousands commas do not matter."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def first_choice(text: str, choices: Sequence[str]) -> str | None:
    """The first of the choices that stands in the text as a word of its own, folded."""
    places = []
    for option in choices:
        flags = 0 if len(option) == 1 else re.IGNORECASE  # "a" is a word, "A" is a choice
        met = re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text, flags)
        if met:
            places.append((met.start(), option))
    return folded(min(places)[1]) if places else None


def folded(text: str) -> str:
    return text.strip(PUNCTUATION).casefold()
