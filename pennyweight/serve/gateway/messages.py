"""/v1/messages: Anthropic's API, sent on as a chat completion.

Source: Anthropic's API reference for Messages, its streaming events and count_tokens.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from pennyweight.openai_api.fields import instead
from pennyweight.serve.gateway.ask import Ask
from pennyweight.serve.gateway.refusals import Refused
from pennyweight.serve.gateway.translation import Block, Translating, Translation, event, message_in

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
PASSED_ON = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream", "priority", "cache_salt")
KNOWN = {*PASSED_ON, "messages", "system", "stop_sequences", "metadata", "tools", "tool_choice", "thinking"}
KNOWN |= {"service_tier", "cache_control", "context_management", "container", "output_config"}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
STOPS = {"length": "max_tokens", "tool_calls": "tool_use"}
MIN_THINKING = 1024  # tokens; of Anthropic's API
ERRORS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
ERRORS |= {429: "rate_limit_error", 503: "overloaded_error"}


def as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same question as a body of /v1/chat/completions."""
    for name, value in body.items():
        if name not in KNOWN and value is not None:
            raise Refused(400, f"{name[:60]} is not supported here: {instead(name, KNOWN)}.", name)
    if not isinstance(body.get("max_tokens"), int) or isinstance(body.get("max_tokens"), bool):
        raise Refused(400, "max_tokens must be a number of tokens.", "max_tokens")
    chat = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    chat["messages"] = messages_of(body)
    stops = body.get("stop_sequences")
    if stops is not None and not (isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)):
        raise Refused(400, "stop_sequences is a list of texts.", "stop_sequences")
    chat |= {"stop": stops} if stops else {}
    last = chat["messages"][-1]
    if last["role"] == "assistant" and "tool_calls" not in last:  # the answer goes on from it
        chat["continue_final_message"] = True
    if chat.get("stream") is True:
        chat["stream_options"] = {
            "include_usage": True,
            "continuous_usage_stats": True,
        }  # message_start has the prompt's
    _check_thinking(body)
    return {**chat, **_output_of(body), **tools_of(body)}


def _output_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """`output_config`: a schema that the answer holds, and how much is thought about it."""
    asked = body.get("output_config")
    if asked is None:
        return {}
    if not isinstance(asked, dict) or (unknown := sorted(set(asked) - {"format", "effort"})):
        what = f"has no {unknown[0][:40]!r}" if isinstance(asked, dict) else "is an object"
        raise Refused(400, f"output_config {what}: it holds format and effort.", "output_config")
    made: dict[str, Any] = {}
    form = asked.get("format")
    if form is not None:
        if not isinstance(form, dict) or form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
            raise Refused(400, "output_config.format has the type json_schema, and a schema.", "output_config")
        schema = {"name": "answer", "schema": form["schema"]}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    thinks_not = isinstance(body.get("thinking"), dict) and body["thinking"].get("type") == "disabled"
    if asked.get("effort") is not None and not thinks_not:
        made["reasoning_effort"] = asked["effort"]
    return made


def _check_thinking(body: Mapping[str, Any]) -> None:
    asked = body.get("thinking")
    if asked is None:
        return
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind not in ("enabled", "disabled", "adaptive"):
        raise Refused(400, "thinking has a type: enabled, disabled or adaptive.", "thinking")
    budget = asked.get("budget_tokens")
    if kind == "enabled" and not (
        isinstance(budget, int) and not isinstance(budget, bool) and MIN_THINKING <= budget < body["max_tokens"]
    ):
        message = f"thinking.budget_tokens is a number from {MIN_THINKING} to below max_tokens."
        raise Refused(400, message, "thinking")


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    told = body.get("messages")
    if not isinstance(told, list) or not told:
        raise Refused(400, "messages must be a list with at least one message.", "messages")
    system = _text(body["system"], "system") if body.get("system") else ""
    made = [{"role": "system", "content": system}] if system else []
    for message in told:
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise Refused(400, "A message is an object with a role, user or assistant.", "messages")
        made += _messages(message)
    return made


def _messages(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One message of ours, or several: results of tools are messages of their own."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"role": message["role"], "content": content}]
    if not isinstance(content, list):
        raise Refused(400, "content is a text or a list of blocks.", "messages")
    results, calls, text, thoughts = [], [], "", ""
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            text += block["text"]
        elif kind == "thinking":
            thoughts += str(block.get("thinking", ""))
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": block.get("id", ""), "type": "function", "function": function})
        elif kind == "tool_result":
            answer = _text(block.get("content") or "", "messages")
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id", ""), "content": answer})
        elif kind != "redacted_thinking":
            raise Refused(400, f"A block of type {str(kind)[:40]!r} is not supported: text only.", "messages")
    own: dict[str, Any] = {"role": message["role"], "content": text}
    own |= {"tool_calls": calls} if calls else {}
    own |= {"reasoning_content": thoughts} if thoughts else {}
    return [*results, own] if text or calls or not results else results


def _text(content: Any, param: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(b, dict) and isinstance(b.get("text"), str) for b in content):
        return "\n".join(block["text"] for block in content)
    raise Refused(400, f"{param}: text only is supported.", param)


def tools_of(body: Mapping[str, Any]) -> dict[str, Any]:
    offered = body.get("tools") or []
    if not isinstance(offered, list) or any(
        not isinstance(tool, dict) or "input_schema" not in tool for tool in offered
    ):
        raise Refused(400, "tools are objects with name, description and input_schema.", "tools")
    functions = [
        {"name": t.get("name"), "description": t.get("description"), "parameters": t["input_schema"]} for t in offered
    ]
    made: dict[str, Any] = {"tools": [{"type": "function", "function": one} for one in functions]} if functions else {}
    choice = body.get("tool_choice")
    if choice is None or (not functions and isinstance(choice, dict) and choice.get("type") in ("auto", "none")):
        return made
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool":
        made["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif kind in CHOICES:
        made["tool_choice"] = CHOICES[kind]
    else:
        raise Refused(400, "tool_choice has a type: auto, any, tool or none.", "tool_choice")
    if choice.get("disable_parallel_tool_use"):
        made["parallel_tool_calls"] = False
    return made


class Messages(Translating):
    paths = (PATH,)

    def as_chat(self, ask: Ask) -> tuple[dict[str, Any], Translation]:
        return as_chat(ask.body), MessageTranslation(ask.body)

    def error(self, body: bytes, status: int) -> bytes:
        return error_of(body, status)


def error_of(body: bytes, status: int) -> bytes:
    """An error in OpenAI's shape, in Anthropic's."""
    kind = ERRORS.get(status, "api_error")
    return json.dumps({"type": "error", "error": {"type": kind, "message": message_in(body)}}).encode()


class MessageTranslation(Translation):
    def __init__(self, asked: Mapping[str, Any]) -> None:
        super().__init__(asked)
        self.id = f"msg_{uuid.uuid4().hex}"

    def opening(self) -> bytes:
        message = {**self.as_json(), "content": [], "stop_reason": None, "stop_sequence": None}
        return event("message_start", message=message) + event("ping")

    def opened(self, block: Block) -> bytes:
        return event("content_block_start", index=block.place, content_block=_empty(block))

    def grew(self, block: Block, more: str) -> bytes:
        names = {"text": ("text_delta", "text"), "reasoning": ("thinking_delta", "thinking")}
        kind, field = names.get(block.kind, ("input_json_delta", "partial_json"))
        return event("content_block_delta", index=block.place, delta={"type": kind, field: more})

    def closed(self, block: Block) -> bytes:
        sent = b""
        if block.kind == "reasoning":
            sent = event("content_block_delta", index=block.place, delta={"type": "signature_delta", "signature": ""})
        return sent + event("content_block_stop", index=block.place)

    def closing(self) -> bytes:
        told = self.as_json()
        delta = {"stop_reason": told["stop_reason"], "stop_sequence": told["stop_sequence"]}
        return event("message_delta", delta=delta, usage=told["usage"]) + event("message_stop")

    def failed(self, message: str) -> bytes:
        return event("error", error={"type": "api_error", "message": message})

    def as_json(self) -> dict[str, Any]:
        stopped = self.stopped_by if self.finish == "stop" else None
        reason = "stop_sequence" if stopped else STOPS.get(self.finish or "", "end_turn")
        cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        usage = {
            "input_tokens": self.usage.get("prompt_tokens", 0) - (cached or 0),
            "output_tokens": self.usage.get("completion_tokens", 0),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached or 0,
        }
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.asked.get("model") or "",
            "content": [told for block in self.blocks if (told := _whole(block)) is not None],
            "stop_reason": reason,
            "stop_sequence": stopped,
            "usage": usage,
        }


def _empty(block: Block) -> dict[str, Any]:
    if block.kind == "call":
        return {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": {}}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _whole(block: Block) -> dict[str, Any] | None:
    """None for a call that was cut: whoever makes it would make another one."""
    made = _empty(block)
    if block.kind == "call":
        try:
            return made | {"input": json.loads(block.text)}
        except ValueError:
            return None
    return made | {"thinking" if block.kind == "reasoning" else "text": block.text}
