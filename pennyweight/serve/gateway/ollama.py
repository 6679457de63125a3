"""/api/chat and /api/generate: Ollama's API, sent on as a chat completion; its streams are lines of JSON.

Source: Ollama's API documentation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pennyweight.openai_api.fields import instead
from pennyweight.serve.gateway.ask import Ask
from pennyweight.serve.gateway.refusals import Refused
from pennyweight.serve.gateway.translation import Block, Translating, Translation, message_in

CHAT, GENERATE = "/api/chat", "/api/generate"
LINES = "application/x-ndjson"
TYPES: dict[str, type | tuple[type, ...]] = {
    "stream": bool,
    "think": (bool, str),
    "system": str,
    "prompt": str,
    "tools": list,
    "format": (str, dict),
    "keep_alive": (str, int, float),
}
LATEST = ":latest"  # what its clients add to a name
KNOWN = {"model", "messages", "prompt", "system", "stream", "format", "options", "tools", "think", "keep_alive"}
NOT_HELD = ("suffix", "images", "template", "context", "raw")
OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "num_predict": "max_completion_tokens",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
LOADING = ("num_ctx", "num_gpu", "num_thread", "num_batch", "num_keep", "main_gpu", "use_mmap", "low_vram", "numa")


def as_chat(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The same question as a body of /v1/chat/completions."""
    for name, value in body.items():
        if name in NOT_HELD and value:
            raise Refused(400, f"{name} is not supported here: remove it.", name)
        if name not in KNOWN and name not in NOT_HELD:
            raise Refused(400, f"{name[:60]} is not supported here: {instead(name, KNOWN)}.", name)
    chat: dict[str, Any] = {"messages": _messages(path, body)}
    chat |= {"model": body["model"]} if body.get("model") else {}
    options = body.get("options") or {}
    if not isinstance(options, dict):
        raise Refused(400, "options is an object.", "options")
    for name, value in options.items():
        if name in LOADING:  # how a model is loaded: decided when this server was started
            continue
        if name not in OPTIONS:
            raise Refused(400, f"options: {name[:60]} is not supported here: {instead(name, OPTIONS)}.", "options")
        if name != "num_predict" or value != -1:
            chat[OPTIONS[name]] = value
    for name, kind in TYPES.items():
        if body.get(name) is not None and not isinstance(body[name], kind):
            raise Refused(400, f"{name} is of the wrong type.", name)
    for name in ("system", "prompt") if path == CHAT else ("messages", "tools"):
        if body.get(name):
            raise Refused(400, f"{name} is no field of {path}: remove it.", name)
    if body.get("stream", True) is not False:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if body.get("tools"):
        chat["tools"] = body["tools"]
    if body.get("think") is False:
        chat["reasoning_effort"] = "none"
    elif isinstance(body.get("think"), str):
        chat["reasoning_effort"] = body["think"]
    form = body.get("format")
    if form == "json":
        chat["response_format"] = {"type": "json_object"}
    elif form:
        chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}
    return chat


def _messages(path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    if path == GENERATE:
        if not isinstance(body.get("prompt"), str) or not body["prompt"]:
            raise Refused(400, "prompt must be a text.", "prompt")
        system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
        return [*system, {"role": "user", "content": body["prompt"]}]
    told = body.get("messages")
    if not isinstance(told, list) or not told or not all(isinstance(message, dict) for message in told):
        raise Refused(400, "messages must be a list with at least one message.", "messages")
    return [_message(message) for message in told]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    if message.get("images"):
        raise Refused(400, "images are not supported: this model reads text only.", "messages")
    made = {"role": message.get("role"), "content": message.get("content") or ""}
    if message.get("tool_calls"):
        if not isinstance(message["tool_calls"], list) or not all(map(_is_call, message["tool_calls"])):
            raise Refused(400, "tool_calls is a list of objects with a function.", "messages")
        made["tool_calls"] = [
            {"id": str(n), "type": "function", "function": {k: c["function"].get(k) for k in ("name", "arguments")}}
            for n, c in enumerate(message["tool_calls"])
        ]
    return made | ({"name": message["tool_name"]} if message.get("tool_name") else {})


class Ollama(Translating):
    paths = (CHAT, GENERATE)

    def as_chat(self, ask: Ask) -> tuple[dict[str, Any], Translation]:
        return as_chat(ask.path, ask.body), OllamaTranslation(ask.body, generates=ask.path == GENERATE)

    def error(self, body: bytes, status: int) -> bytes:
        del status
        return error_of(body)


def error_of(body: bytes) -> bytes:
    return json.dumps({"error": message_in(body)}).encode()


class OllamaTranslation(Translation):
    """Calls are told when they are whole."""

    stream_type = LINES

    def __init__(self, asked: Mapping[str, Any], *, generates: bool) -> None:
        super().__init__(asked)
        self._generates, self._begun = generates, time.monotonic()

    def opening(self) -> bytes:
        return b""

    def opened(self, block: Block) -> bytes:
        del block
        return b""

    def grew(self, block: Block, more: str) -> bytes:
        if block.kind == "call":
            return b""
        return self._line(self._said({"content" if block.kind == "text" else "thinking": more}))

    def closed(self, block: Block) -> bytes:
        return self._line(self._said({"tool_calls": [_call(block)]})) if block.kind == "call" else b""

    def closing(self) -> bytes:
        return self._line({**self._said({}), **self._end()})

    def failed(self, message: str) -> bytes:
        return json.dumps({"error": message}).encode() + b"\n"

    def take(self, event: bytes) -> bytes:
        return b"" if event.startswith(b":") else super().take(event)

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"content": "".join(b.text for b in self.blocks if b.kind == "text")}
        thought = "".join(b.text for b in self.blocks if b.kind == "reasoning")
        calls = [_call(block) for block in self.blocks if block.kind == "call"]
        said |= {"thinking": thought} if thought else {}
        return {**self._told(), **self._said(said | ({"tool_calls": calls} if calls else {})), **self._end()}

    def _said(self, said: Mapping[str, Any]) -> dict[str, Any]:
        if not self._generates:
            return {"message": {"role": "assistant", "content": "", **said}, "done": False}
        others = {name: value for name, value in said.items() if name != "content"}
        return {"response": said.get("content", ""), **others, "done": False}

    def _told(self) -> dict[str, Any]:
        return {"model": self.asked.get("model") or "", "created_at": datetime.now(UTC).isoformat()}

    def _line(self, more: Mapping[str, Any]) -> bytes:
        return json.dumps({**self._told(), **more}, ensure_ascii=False).encode() + b"\n"

    def _end(self) -> dict[str, Any]:
        return {
            "done": True,
            "done_reason": "length" if self.finish == "length" else "stop",
            "total_duration": int((time.monotonic() - self._begun) * 1e9),
            "prompt_eval_count": self.usage.get("prompt_tokens", 0),
            "eval_count": self.usage.get("completion_tokens", 0),
        }


def _call(block: Block) -> dict[str, Any]:
    try:
        arguments = json.loads(block.text or "{}")
    except ValueError:
        arguments = {}
    return {"function": {"name": block.name, "arguments": arguments}}


def _is_call(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("function"), dict)
