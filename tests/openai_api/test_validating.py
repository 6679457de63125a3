from __future__ import annotations

import time
from typing import Any

import pytest

from pennyweight.openai_api.validating import text_holds, validating

PLACE = {"type": "object", "properties": {"place": {"enum": ["north", "south"]}}, "required": ["place"]}


def test_a_value_holds_its_schema_or_not() -> None:
    holds = validating(PLACE)
    assert holds({"place": "north"}) and not holds({"place": "up"}) and not holds({})
    assert text_holds('{"place": "south"}', holds) is True
    assert text_holds('{"place": "sou', holds) is None


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "nothing"}, "no JSON schema"),
        ({"properties": {"a": {"pattern": "(?=a)b"}}}, "look-around"),
        ({"patternProperties": {"a": {}}}, "name the properties"),
        ({"properties": {str(n): {"type": "string"} for n in range(5000)}}, "smaller"),
    ],
)
def test_what_cannot_be_checked_is_refused(schema: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        validating(schema)


def test_patterns_take_linear_time() -> None:
    holds, began = validating({"pattern": "(a+)+$"}), time.monotonic()
    assert not holds("a" * 5000 + "b") and holds("baa")
    assert time.monotonic() - began < 5  # Python's re would take years


@pytest.mark.parametrize("reference", ["http://127.0.0.1:9/x.json", "file:///etc/passwd", "#/nowhere", "#"])
def test_nothing_is_fetched_and_nothing_recurses(reference: str) -> None:
    assert not validating({"$ref": reference})({"a": 1})
