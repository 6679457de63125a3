"""What an answer says, of the bytes that were sent, whole or as a stream of events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pennyweight.serve.gateway.relay import DONE, EVENTS

EVENT_END = b"\n\n"


@dataclass(frozen=True)
class Said:
    text: str
    finish: str

    @property
    def whole(self) -> bool:
        """Did it end by itself, with a text?"""
        return self.finish == "stop" and bool(self.text.strip())


def said_in(content_type: str, body: bytes) -> Said:
    """Of a chat's answer; empty where it is none."""
    text, finish = "", ""
    try:
        for value in _values(content_type, body):
            for choice in value.get("choices") or ():
                message = choice.get("delta") or choice.get("message") or {}
                if message.get("tool_calls"):
                    return Said("", "tool_calls")
                text += message.get("content") or ""
                finish = choice.get("finish_reason") or finish
    except (ValueError, AttributeError, TypeError):
        return Said("", "")
    return Said(text, finish)


def parts_of(content_type: str, body: bytes) -> list[bytes]:
    """As it is sent: a stream event by event."""
    if content_type != EVENTS:
        return [body]
    return [event + EVENT_END for event in body.split(EVENT_END) if event]


def _values(content_type: str, body: bytes) -> Iterator[dict[str, Any]]:
    if content_type != EVENTS:
        yield json.loads(body)
        return
    for event in body.split(EVENT_END):
        if event.startswith(b"data: ") and not event.startswith(DONE):
            yield json.loads(event[6:])
