"""How OpenAI's API spells an error: as a body, and as the last event of a stream that cannot go on."""

from __future__ import annotations

import json
from typing import Any


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_event(message: str) -> bytes:
    """The last event of a stream that fails after it has begun."""
    return b"data: " + json.dumps(error_body(message, "server_error")).encode() + b"\n\n"
