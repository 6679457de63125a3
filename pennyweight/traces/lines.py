"""What line-based readers share: every fault is reported with its file and line number."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.errors import WorkloadError
from pennyweight.workload import ANSWER_FIELDS, DELIVERY_FIELDS, TOOL_FIELDS, UNSUPPORTED_FIELDS, Request, content_text

OWN_FIELDS = tuple(field.name for field in dataclasses.fields(Request))
NUMBERS = {  # field -> its range, as OpenAI's and vLLM's servers have it
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "top_k": (-1.0, 1e9),
    "seed": (-(2.0**63), 2.0**63),
    "n": (1.0, 16.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.0, 10.0),
}
OBJECTS = ("response_format", "logit_bias", "chat_template_kwargs")
FORMS = ("text", "json_object", "json_schema")
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Line:
    """One record with its file and line number, for error messages."""

    file: Path
    number: int
    value: Mapping[str, Any]

    def fault(self, what: str) -> WorkloadError:
        return WorkloadError(f"{self.file}, line {self.number}: {what}.")

    def text(self, name: str) -> str:
        """A required text field."""
        value = self.value.get(name)
        if not isinstance(value, str):
            raise self.fault(f"{name} is missing")
        return value

    def count(self, name: str, minimum: int = 1) -> int:
        """A required whole number."""
        try:
            if isinstance(self.value[name], bool):
                raise TypeError
            number = int(self.value[name])
            if number != float(self.value[name]):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self.fault(f"{name} is missing or is no whole number") from None
        if number < minimum:
            raise self.fault(f"{name} is {number}, which is below {minimum}")
        return number


def json_lines(path: Path, skip_invalid: Callable[[str], None] | None = None) -> Iterator[Line]:
    """Every line that holds a JSON object. Another one is a fault; with `skip_invalid`, called with it, left out."""
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                yield Line(path, number, _object(path, number, text))
            except WorkloadError as error:
                if skip_invalid is None:
                    raise
                skip_invalid(f"Left out: {error}")


def _object(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkloadError(f"{path}, line {number}: no JSON ({error}).") from None
    if not isinstance(value, dict):
        raise WorkloadError(f"{path}, line {number}: a JSON object is expected, this is {text.strip()[:40]!r}.")
    return value


def each_line(
    path: Path, convert: Callable[[Line], Request], skip_invalid: Callable[[str], None] | None = None
) -> list[tuple[int, Request]]:
    """(line, request) of every line of JSON. A line that cannot be converted is a fault; with `skip_invalid`, which is
    called with it, it is left out."""
    found = []
    for line in json_lines(path, skip_invalid):
        try:
            found.append((line.number, convert(line)))
        except WorkloadError as error:
            if skip_invalid is None:
                raise
            skip_invalid(f"Left out: {error}")
    return found


def csv_lines(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield Line(path, reader.line_num, row)
        except csv.Error as error:
            where = f"{path}, line {reader.line_num + 1}"
            raise WorkloadError(f"{where}: no CSV ({error}): is a quotation mark open?") from None


def checked(
    path: Path, requests: list[tuple[int, Request]], skip_invalid: Callable[[str], None] | None = None
) -> tuple[Request, ...]:
    """Requests in file order with (line, request): ids must differ, recorded times must not be negative or run
    backwards. One that does is a fault; with `skip_invalid`, which is called with it, it is left out."""
    previous = 0.0
    seen: dict[str, int] = {}
    found = []
    for number, request in requests:
        fault = _out_of_order(request, seen.get(request.id), previous)
        if fault:
            error = WorkloadError(f"{path}, line {number}: {fault}.")
            if skip_invalid is None:
                raise error
            skip_invalid(f"Left out: {error}")
            continue
        seen[request.id] = number
        previous = request.arrival or previous
        found.append(request)
    return tuple(found)


def _out_of_order(request: Request, used: int | None, previous: float) -> str:
    """What is wrong with the request after those before it; empty if nothing is."""
    if used is not None:
        return f"the id {request.id!r} was used on line {used} already"
    if request.arrival is None:
        return ""
    if not math.isfinite(request.arrival):
        return "the time is not a finite number"
    if request.arrival < 0:
        return f"the time {request.arrival:g} s is negative"
    if request.arrival < previous:
        return f"the time {request.arrival:g} s is before the previous line's: sort the file"
    return ""


def answer_fields(line: Line) -> dict[str, Any]:
    """The fields of a body that change its answer. One that cannot be replayed, or that is nearly spelled as one that
    can, is a fault of that line: left out, other work than the user's would be measured."""
    found = {}
    for name, value in line.value.items():
        if value is None or name in DELIVERY_FIELDS:
            continue
        if name in ANSWER_FIELDS:
            found[name] = _checked(line, name, value)
        elif name in UNSUPPORTED_FIELDS:
            raise line.fault(f"{name} changes the answer and cannot be replayed: take it out")
        elif name not in (*OWN_FIELDS, "max_completion_tokens"):
            near = difflib.get_close_matches(name, (*ANSWER_FIELDS, *UNSUPPORTED_FIELDS, *OWN_FIELDS), n=1, cutoff=0.8)
            if near:
                raise line.fault(f"{name} is no field of a request: write {near[0]} if that is meant")
    return found if found.get("tools") else _without_tools(line, found)


def _without_tools(line: Line, found: Mapping[str, Any]) -> dict[str, Any]:
    """Fields about tools ask for nothing where there are none, and servers refuse them."""
    if found.get("tool_choice") not in (None, "auto", "none"):
        raise line.fault("tool_choice needs tools: add some, or take it out")
    return {name: value for name, value in found.items() if name not in TOOL_FIELDS}


def _checked(line: Line, name: str, value: Any) -> Any:
    if name in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise line.fault(f"{name} must be a number")
        low, high = NUMBERS[name]
        if not low <= value <= high:
            raise line.fault(f"{name} is {value:g}, outside {low:g} to {high:g}")
    elif name == "stop":
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
            raise line.fault("stop must be a text or a list of texts")
    elif name == "tools" and not (isinstance(value, list) and all(_is_tool(tool) for tool in value)):
        raise line.fault("tools must be a list of {type: function, function: {name, parameters}}")
    elif name in OBJECTS and not isinstance(value, dict):
        raise line.fault(f"{name} must be an object")
    if name == "response_format" and value.get("type") not in FORMS:
        raise line.fault(f"response_format has the type {value.get('type')!r}: use one of {', '.join(FORMS)}")
    return value


def _is_tool(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def messages_of(line: Line, messages: Any) -> tuple[dict[str, str], ...]:
    """Chat messages with a known role and text content, which may come in parts; anything else is a fault of that
    line."""
    if not isinstance(messages, list) or not messages:
        raise line.fault("messages must be a list with at least one message")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise line.fault(f"each message needs a role out of {', '.join(ROLES)}")
        more = [name for name, value in message.items() if name not in ("role", "content") and value not in (None, [])]
        if more:
            raise line.fault(f"a message has {more[0]}, which cannot be replayed: use role and content only")
    return tuple({"role": m["role"], "content": _text_of(line, m.get("content"))} for m in messages)


def _text_of(line: Line, content: Any) -> str:
    if isinstance(content, list) and content and all(_is_text(part) for part in content):
        return content_text(content)
    if not isinstance(content, str):
        raise line.fault("each message needs its content as text")
    return content


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
