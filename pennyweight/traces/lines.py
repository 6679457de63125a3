"""What line-based readers share: every fault is reported with its file and line number."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.errors import WorkloadError
from pennyweight.workload import Request

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
            number = int(self.value[name])
            if number != float(self.value[name]):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self.fault(f"{name} is missing or is no whole number") from None
        if number < minimum:
            raise self.fault(f"{name} is {number}, which is below {minimum}")
        return number


def json_lines(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                value = json.loads(text)
            except ValueError as error:
                raise WorkloadError(f"{path}, line {number}: no JSON ({error}).") from None
            if not isinstance(value, dict):
                raise WorkloadError(f"{path}, line {number}: a JSON object is expected, this is {text.strip()[:40]!r}.")
            yield Line(path, number, value)


def csv_lines(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield Line(path, reader.line_num, row)
        except csv.Error as error:
            where = f"{path}, line {reader.line_num + 1}"
            raise WorkloadError(f"{where}: no CSV ({error}): is a quotation mark open?") from None


def checked(path: Path, requests: list[tuple[int, Request]]) -> tuple[Request, ...]:
    """Requests in file order with (line, request): ids must differ, recorded times must not be
    negative or run backwards."""
    previous = 0.0
    seen: dict[str, int] = {}
    for number, request in requests:
        if request.id in seen:
            raise WorkloadError(
                f"{path}, line {number}: the id {request.id!r} was used on line {seen[request.id]} already."
            )
        seen[request.id] = number
        if request.arrival is None:
            continue
        if not math.isfinite(request.arrival):
            raise WorkloadError(f"{path}, line {number}: the time is not a finite number.")
        if request.arrival < 0:
            raise WorkloadError(f"{path}, line {number}: the time {request.arrival:g} s is negative.")
        if request.arrival < previous:
            raise WorkloadError(
                f"{path}, line {number}: the time {request.arrival:g} s is before the previous line's: sort the file."
            )
        previous = request.arrival
    return tuple(request for _, request in requests)


def messages_of(line: Line, messages: Any) -> tuple[dict[str, str], ...]:
    """Chat messages with a known role and text content; anything else is a fault of that line."""
    if not isinstance(messages, list) or not messages:
        raise line.fault("messages must be a list with at least one message")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise line.fault(f"each message needs a role out of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise line.fault("each message needs its content as text")
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)
