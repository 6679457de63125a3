"""Does a JSON value hold a schema that a client sent? Nothing is fetched, and no pattern takes more than linear time:
the schema and the value may both be an attacker's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

KEPT_PATTERNS = 256
MAX_KEYWORDS = 5000
Holds = Callable[[Any], bool]


def validating(schema: Mapping[str, Any]) -> Holds:
    """Takes up to seconds for a large schema: call it in a thread. Raises `ValueError`, with a sentence, for what is no
    schema, or one of more than `MAX_KEYWORDS` names, and for a pattern that Rust's regex crate does not
    take: it has no look-around, and needs no more than linear time. A reference to another document never holds."""
    import referencing
    import referencing.exceptions
    from jsonschema.exceptions import SchemaError, ValidationError
    from jsonschema.validators import validator_for

    for number, (keyword, value) in enumerate(_keywords(schema)):
        if number >= MAX_KEYWORDS:
            raise ValueError(f"its schema has more than {MAX_KEYWORDS:,} names: send a smaller one")
        if keyword == "patternProperties":
            raise ValueError("patternProperties cannot be checked: name the properties")
        if keyword == "pattern" and isinstance(value, str):
            _regex(value)
    kind = _with_safe_patterns(validator_for(schema))
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"it is no JSON schema: {error.message[:200]}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    inner = kind(schema, registry=referencing.Registry())  # an empty one: nothing is looked up elsewhere

    def holds(value: Any) -> bool:
        try:
            inner.validate(value)
        except (ValidationError, RecursionError, referencing.exceptions.Unresolvable):
            return False
        return True

    return holds


def text_holds(text: str, holds: Holds) -> bool | None:
    """None where the text is no JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return holds(value)


@lru_cache
def _with_safe_patterns(kind: Any) -> Any:
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    def pattern(_: Any, wanted: str, value: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(value, str) and not _regex(wanted)(value):
            yield ValidationError(f"{value!r} does not match {wanted!r}")

    return extend(kind, {"pattern": pattern})  # type: ignore[no-untyped-call]


@lru_cache(KEPT_PATTERNS)
def _regex(pattern: str) -> Holds:
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern)).isinstance_python
    except SchemaError:
        raise ValueError(f"the pattern {pattern[:100]!r} cannot be checked: use one without look-around") from None


def _keywords(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every name and value in it, at any depth."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
