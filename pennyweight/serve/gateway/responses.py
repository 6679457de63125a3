"""/v1/responses for text: sent on as a chat completion, answered in the Responses API's format.

Source: OpenAI's API reference for /v1/responses and its streaming events.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pennyweight.serve.gateway.ask import Ask, Head, Piece, Stage
from pennyweight.serve.gateway.refusals import Refused
from pennyweight.serve.gateway.relay import DONE, message_of

PATH = "/v1/responses"
CHAT_PATH = "/v1/chat/completions"
PASSED_ON = ("model", "temperature", "top_p", "user", "metadata", "seed", "priority")
NOT_HELD = ("previous_response_id", "conversation", "tools", "background")
TEXT_PARTS = ("input_text", "output_text", "text")


def as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same question as a body of /v1/chat/completions."""
    for name in NOT_HELD:
        if body.get(name):
            raise Refused(400, f"This gateway does not store conversations or support tools: remove {name}.", name)
    messages = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    asked = body.get("input")
    if isinstance(asked, str) and asked:
        messages.append({"role": "user", "content": asked})
    elif isinstance(asked, list) and asked:
        messages += [_message(item) for item in asked]
    else:
        raise Refused(400, "input must be a text or a list of messages.", "input")
    chat = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if body.get("stream") is True:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return {**chat, **_form(body), "messages": messages}


def _form(body: Mapping[str, Any]) -> dict[str, Any]:
    """The `response_format`, from the Responses API's `text.format`."""
    form = (body.get("text") or {}).get("format") if isinstance(body.get("text"), dict) else None
    if not isinstance(form, dict) or form.get("type", "text") == "text":
        return {}
    inside = {name: form[name] for name in ("name", "schema", "strict") if name in form}
    return {"response_format": {"type": form["type"], **({"json_schema": inside} if inside else {})}}


def _message(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        raise Refused(400, "input supports messages only.", "input")
    content = item.get("content")
    if isinstance(content, list):
        if any(not isinstance(part, dict) or part.get("type") not in TEXT_PARTS for part in content):
            raise Refused(400, "A message supports text only.", "input")
        content = "".join(str(part.get("text", "")) for part in content)
    return {"role": item.get("role"), "content": content}


class Responses:
    """The stage: a Responses request is translated to a chat completion, and its answer back. Errors pass
    unchanged."""

    def __init__(self, inner: Stage) -> None:
        self._inner = inner

    async def __call__(self, ask: Ask) -> AsyncGenerator[Piece]:
        if ask.path != PATH:
            async with aclosing(self._inner(ask)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        body = as_chat(ask.body)
        async with aclosing(self._inner(ask.translated(CHAT_PATH, body, json.dumps(body).encode()))) as pieces:
            async for piece in _translated(pieces, ask.body):
                yield piece


async def _translated(pieces: AsyncGenerator[Piece], asked: Mapping[str, Any]) -> AsyncGenerator[Piece]:
    made = Response(asked)
    head = await anext(pieces)
    assert isinstance(head, Head)
    yield head
    if head.status != 200:
        async for piece in pieces:
            yield piece
    elif head.content_type == "text/event-stream":
        yield made.opening()
        rest = b""
        async for piece in pieces:
            if not isinstance(piece, bytes):
                yield piece
                continue
            *events, rest = (rest + piece).split(b"\n\n")
            if text := b"".join(made.take(event) for event in events):
                yield text
    else:
        parts = [piece async for piece in pieces]
        whole = json.loads(b"".join(piece for piece in parts if isinstance(piece, bytes)))
        choice = whole["choices"][0]
        made.text, made.finish, made.usage = choice["message"]["content"], choice["finish_reason"], whole["usage"]
        yield json.dumps(made.as_json()).encode()
        for piece in parts:
            if not isinstance(piece, bytes):
                yield piece


@dataclass
class Response:
    """One response while it grows, and its events."""

    asked: Mapping[str, Any]
    text: str = ""
    finish: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _events: int = 0

    @property
    def item_id(self) -> str:
        return self.id.replace("resp_", "msg_")

    @property
    def status(self) -> str:
        return {None: "in_progress", "length": "incomplete"}.get(self.finish, "completed")

    def opening(self) -> bytes:
        item = {**self._item(), "content": []}
        return (
            self._event("response.created", response=self.as_json())
            + self._event("response.in_progress", response=self.as_json())
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", **self._place(), part=self._part(""))
        )

    def take(self, event: bytes) -> bytes:
        """What follows from one event of the chat."""
        if event.startswith(DONE):
            return self._closing()
        if event.startswith(b":"):
            return b""
        value = json.loads(event[6:])
        if "error" in value:
            return self._event("error", code="server_error", message=message_of(event), param=None)
        self.usage = value.get("usage") or self.usage
        sent = b""
        for choice in value["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            if text := choice["delta"].get("content"):
                self.text += text
                sent += self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])
        return sent

    def _closing(self) -> bytes:
        name = "response.incomplete" if self.status == "incomplete" else "response.completed"
        return (
            self._event("response.output_text.done", **self._place(), text=self.text, logprobs=[])
            + self._event("response.content_part.done", **self._place(), part=self._part(self.text))
            + self._event("response.output_item.done", output_index=0, item=self._item())
            + self._event(name, response=self.as_json())
        )

    def as_json(self) -> dict[str, Any]:
        prompt, completion = self.usage.get("prompt_tokens", 0), self.usage.get("completion_tokens", 0)
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        }
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "instructions": self.asked.get("instructions"),
            "max_output_tokens": self.asked.get("max_output_tokens"),
            "metadata": self.asked.get("metadata") or {},
            "model": self.asked.get("model") or "",
            "output": [self._item()] if self.finish else [],
            "parallel_tool_calls": False,
            "temperature": self.asked.get("temperature"),
            "top_p": self.asked.get("top_p"),
            "tool_choice": "none",
            "tools": [],
            "usage": usage if self.usage else None,
        }

    def _item(self) -> dict[str, Any]:
        status = "completed" if self.finish else "in_progress"
        content = [self._part(self.text)]
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.item_id, "output_index": 0, "content_index": 0}

    @staticmethod
    def _part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": []}

    def _event(self, name: str, **more: Any) -> bytes:
        event = {"type": name, "sequence_number": self._events, **more}
        self._events += 1
        return f"event: {name}\ndata: {json.dumps(event)}\n\n".encode()
