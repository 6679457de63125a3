"""Gemma's calls: call:name{key:value,…}, where texts stand between marks of their own. FunctionGemma and Gemma 4 differ
in the markers only. A call is shown when it is whole: its arguments become JSON only then.

Source: the chat templates of google/functiongemma and google/gemma-4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pennyweight.openai_api.reading import Call, Reading, before_calls

CALL = re.compile(r"\s*call:([\w.-]+)\s*(\{.*\})\s*", re.DOTALL)


def function_gemma(text: str, whole: bool, schemas: Mapping[str, Mapping[str, Any]]) -> Reading:
    del schemas
    return _read(text, whole, ("<start_function_call>", "<end_function_call>"), "<escape>")


def gemma(text: str, whole: bool, schemas: Mapping[str, Mapping[str, Any]]) -> Reading:
    del schemas
    return _read(text, whole, ("<|tool_call>", "<tool_call|>"), '<|"|>')


def _read(text: str, whole: bool, markers: tuple[str, str], quote: str) -> Reading:
    opening, closing = markers
    found, calls = before_calls(text, opening, whole), []
    for part in text.split(opening)[1:]:
        inside, closed, _ = part.partition(closing)
        called = CALL.fullmatch(inside) if closed or whole else None
        arguments = called and _arguments(called[2], quote)
        if called and arguments is not None:
            calls.append(Call(called[1], arguments))
    return Reading(found, calls=tuple(calls))


def _arguments(written: str, quote: str) -> str | None:
    """As JSON; None where it cannot be read."""
    parts = written.split(quote)  # outside and inside of texts by turns
    made = ""
    for place, part in enumerate(parts):
        made += (
            json.dumps(part, ensure_ascii=False) if place % 2 else re.sub(r"([{,]\s*)([\w-]+)\s*:", r'\1"\2":', part)
        )
    try:
        value = json.loads(made)
    except ValueError:
        return None
    return json.dumps(value, ensure_ascii=False)
