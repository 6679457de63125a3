"""GPT-OSS's harmony format: an answer is messages on channels. `analysis` is reasoning, `final` is the content, and
`commentary to=functions.name` is a call. The prompt ends with <|start|>assistant.

Source: OpenAI's description of the harmony response format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pennyweight.openai_api.reading import Call, Reading, before_marker

ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
CALLED = re.compile(r"to=functions\.([\w.-]+)")


def read(text: str, whole: bool, schemas: Mapping[str, Mapping[str, Any]]) -> Reading:
    del schemas
    content = reasoning = ""
    calls = []
    if "<|channel|>" not in text:
        begun = before_marker(text, "<|channel|>", whole)
        return Reading(begun if whole else "")
    for part in text.split("<|channel|>")[1:]:
        header, message, body = part.partition("<|message|>")
        if not message:
            continue
        for end in ENDS:
            body = before_marker(body, end, whole)
        if called := CALLED.search(header):
            calls.append(Call(called[1], body.strip()))
        elif header.startswith("analysis"):
            reasoning += body
        else:
            content += body
    return Reading(content, reasoning, tuple(calls))
