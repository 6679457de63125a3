"""Values to JSON and back, by their types: one codec for every file that people keep (docs/formats.md).

Pydantic validates the plain dataclasses, which do not depend on it. Fields at their default are left
out when they are written, and a number that is not finite is written as text ("Infinity"), since JSON has none.
"""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pennyweight.errors import StorageError

LOG = logging.getLogger("pennyweight.formats")
CONFIGURATION = ConfigDict(extra="forbid", ser_json_inf_nan="strings")
UNKNOWN = "unexpected_keyword_argument"
T = TypeVar("T")


def plain(value: Any) -> Any:
    """The value as JSON has it: dicts, lists, text, numbers."""
    cls: Any = type(value)
    return json.loads(_adapter(cls).dump_json((value,), exclude_defaults=True))[0]


def value_of(cls: type[T], data: Any, where: str, *, newer: bool = False) -> T:
    """The typed value from `data`, the inverse of `plain`. Raises `StorageError` with `where`, the key and the fix.

    `newer` says that a later release wrote the data: keys unknown to this one are named in the log and left out.
    """
    while True:
        try:
            kind: Any = cls
            found: T = _adapter(kind).validate_json(json.dumps([data]))[0]
            return found
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            path = [str(part) for part in fault["loc"][1:]]
            if not (newer and fault["type"] == UNKNOWN):
                raise StorageError(_refusal(where, path, fault)) from None
            LOG.warning("%s: %s is a key of a newer release and is left out", where, ".".join(path))
            holder = data
            for part in fault["loc"][1:-1]:
                holder = holder[part]
            del holder[fault["loc"][-1]]


def schema(cls: Any) -> dict[str, Any]:
    """The JSON schema (2020-12) of what `plain` writes of this class."""
    made = _adapter(cls).json_schema()
    found: dict[str, Any] = {**made["prefixItems"][0], "$defs": made.get("$defs", {})}
    reference = found.pop("$ref", None)
    return {**found["$defs"].pop(reference.rsplit("/", 1)[1]), "$defs": found["$defs"]} if reference else found


def _refusal(where: str, path: list[str], fault: Any) -> str:
    place = ".".join(path) or "the whole"
    if fault["type"] == UNKNOWN:
        return f"{where} has an unknown key, {place}: correct it or take it out (docs/formats.md lists all keys)."
    if fault["type"] in ("missing", "missing_argument"):
        return f"{where} lacks the key {place}: add it (docs/formats.md says what it means)."
    return f"{where}: {place} is not as it should be ({fault['msg']}): correct it (docs/formats.md)."


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    # A tuple of one: pydantic takes a configuration for dataclasses from what holds them only.
    return TypeAdapter(tuple[cls], config=CONFIGURATION)
