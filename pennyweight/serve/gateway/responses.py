"""/v1/responses: OpenAI's newer API, sent on as a chat completion. Conversations are kept in memory, within bounds, so
that `previous_response_id` can go on with one.

Source: OpenAI's API reference for /v1/responses and its streaming events.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pennyweight.openai_api.fields import instead
from pennyweight.serve.gateway.ask import Ask, Stage
from pennyweight.serve.gateway.refusals import Refused
from pennyweight.serve.gateway.translation import Block, Translating, Translation, event

PATH = "/v1/responses"
PASSED_ON = ("model", "temperature", "top_p", "user", "metadata", "seed", "priority", "parallel_tool_calls", "store")
KNOWN = {*PASSED_ON, "input", "instructions", "max_output_tokens", "stream", "text", "tools", "tool_choice"}
KNOWN |= {"previous_response_id", "reasoning", "include", "truncation", "service_tier", "prompt_cache_key"}
KNOWN |= {"safety_identifier", "stream_options", "prompt_cache_retention", "prompt_cache_options", "top_logprobs"}
KNOWN |= {"background"}  # background.py asks without it
NOT_HELD = ("conversation", "prompt", "max_tool_calls")
LOGPROBS = "message.output_text.logprobs"  # of `include`
RETENTIONS = (None, "in_memory", "in-memory", "24h")
# What an answer repeats of its request, with the values of a request that has none.
REPEATED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
WITHOUT_ANSWER = ("queued", "in_progress", "failed", "cancelled")  # states of a response in the background
TEXT_PARTS = ("input_text", "output_text", "text")
MAX_KEPT, MAX_KEPT_BYTES = 1000, 64 * 2**20  # responses, and bytes of all of them
Chat = list[dict[str, Any]]


class Conversations:
    """Responses and the chats behind them, by tenant and id; the oldest are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._bytes = 0

    def keep(self, tenant: str, response: Mapping[str, Any], chat: Chat) -> None:
        text = json.dumps({"response": response, "chat": chat})
        self._bytes += len(text) - len(self._kept.pop((tenant, response["id"]), ""))
        self._kept[tenant, response["id"]] = text
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_KEPT_BYTES:
            _, forgotten = self._kept.popitem(last=False)
            self._bytes -= len(forgotten)

    def chat(self, tenant: str, response: Any) -> Chat:
        """For `previous_response_id`."""
        text = self._kept.get((tenant, str(response)))
        if text is None:
            raise Refused(404, _forgotten(response), "previous_response_id", "previous_response_not_found")
        value = json.loads(text)
        status = value["response"].get("status")
        if status in WITHOUT_ANSWER:
            message = f"The response {str(response)[:60]!r} is {status}: nothing can go on from it."
            raise Refused(400, message, "previous_response_id")
        found: Chat = value["chat"]
        return found

    def response(self, tenant: str, response: str) -> dict[str, Any]:
        text = self._kept.get((tenant, response))
        if text is None:
            raise Refused(404, _forgotten(response), "response_id")
        found: dict[str, Any] = json.loads(text)["response"]
        return found

    def rename(self, tenant: str, response: str, name: str, **more: Any) -> None:
        """Another id for a response, with what else it says then."""
        value = json.loads(self._kept[tenant, response])
        self.remove(tenant, response)
        self.keep(tenant, {**value["response"], "id": name, **more}, value["chat"])

    def remove(self, tenant: str, response: str) -> None:
        self.response(tenant, response)
        self._bytes -= len(self._kept.pop((tenant, response)))


def _forgotten(response: Any) -> str:
    return f"There is no response {str(response)[:60]!r}: it was asked for with store: false, or is forgotten."


def as_chat(body: Mapping[str, Any], before: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The same question as a body of /v1/chat/completions; `before` is the chat that it goes on with."""
    for name, value in body.items():
        if name in NOT_HELD and value:
            raise Refused(400, f"{name} is not supported here: remove it.", name)
        if name == "truncation" and value not in (None, "disabled"):
            raise Refused(400, "truncation is disabled here: leave out the earliest items yourself.", name)
        if name == "prompt_cache_retention" and value not in RETENTIONS:
            raise Refused(400, f"prompt_cache_retention is one of {', '.join(map(str, RETENTIONS[1:]))}.", name)
        if name not in KNOWN and name not in NOT_HELD and value is not None:
            raise Refused(400, f"{name[:60]} is no field of a response: {instead(name, KNOWN)}.", name)
    if isinstance(body.get("text"), dict) and (unknown := sorted(set(body["text"]) - {"format"})):
        raise Refused(400, f"text.{unknown[0][:40]} is not supported here: remove it.", "text")
    messages = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    messages += [dict(message) for message in before]
    asked = body.get("input")
    if isinstance(asked, str) and asked:
        messages.append({"role": "user", "content": asked})
    elif isinstance(asked, list) and asked:
        messages += _messages(asked)
    else:
        raise Refused(400, "input must be a text or a list of messages.", "input")
    chat = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if body.get("stream") is not None:
        chat["stream"] = body["stream"]
        chat |= {"stream_options": {"include_usage": True}} if body["stream"] is True else {}
    if isinstance(body.get("reasoning"), dict) and body["reasoning"].get("effort"):
        chat["reasoning_effort"] = body["reasoning"]["effort"]
    asked_for = body.get("include") or []
    if body.get("top_logprobs") or (isinstance(asked_for, list) and LOGPROBS in asked_for):
        chat |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    return {**chat, **_form(body), **_tools(body), "messages": messages}


def _form(body: Mapping[str, Any]) -> dict[str, Any]:
    """The `response_format`, from the Responses API's `text.format`."""
    form = (body.get("text") or {}).get("format") if isinstance(body.get("text"), dict) else None
    if not isinstance(form, dict) or form.get("type", "text") == "text":
        return {}
    inside = {name: form[name] for name in ("name", "schema", "strict") if name in form}
    return {"response_format": {"type": form["type"], **({"json_schema": inside} if inside else {})}}


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    offered, choice = body.get("tools") or [], body.get("tool_choice")
    if not isinstance(offered, list) or any(not isinstance(t, dict) or t.get("type") != "function" for t in offered):
        raise Refused(400, "tools: functions only are supported here.", "tools")
    names = ("name", "description", "parameters", "strict")
    made: dict[str, Any] = {}
    if offered:
        made["tools"] = [{"type": "function", "function": {n: t[n] for n in names if n in t}} for t in offered]
    if isinstance(choice, dict):
        made["tool_choice"] = {"type": choice.get("type"), "function": {"name": choice.get("name")}}
    elif choice is not None and (offered or choice not in ("auto", "none")):
        made["tool_choice"] = choice
    return made


def _messages(items: Sequence[Any]) -> Chat:
    """Calls that stand one after the other belong to one message."""
    made: Chat = []
    thoughts = ""  # of the assistant's message that follows
    for item in items:
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind == "message":
            made.append({"role": item.get("role"), "content": _text(item.get("content"))})
            if thoughts and item.get("role") == "assistant":
                made[-1]["reasoning_content"], thoughts = thoughts, ""
        elif kind == "function_call":
            if not made or made[-1]["role"] != "assistant":
                made.append({"role": "assistant", "content": ""})
                made[-1] |= {"reasoning_content": thoughts} if thoughts else {}
                thoughts = ""
            function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
            call = {"id": item.get("call_id", ""), "type": "function", "function": function}
            made[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            told = item.get("output")
            content = told if isinstance(told, str) else _text(told)
            made.append({"role": "tool", "tool_call_id": item.get("call_id", ""), "content": content})
        elif kind == "reasoning":
            parts = item.get("content") or []
            thoughts += "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
        else:
            raise Refused(400, f"input: an item of type {str(kind)[:40]!r} is not supported.", "input")
    return made


def _text(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    if any(not isinstance(part, dict) or part.get("type") not in TEXT_PARTS for part in content):
        raise Refused(400, "A message supports text only.", "input")
    return "".join(str(part.get("text", "")) for part in content)


class Responses(Translating):
    paths = (PATH,)
    tells_errors = False  # their shape is the same

    def __init__(self, inner: Stage) -> None:
        super().__init__(inner)
        self.conversations = Conversations()

    def as_chat(self, ask: Ask) -> tuple[dict[str, Any], Translation]:
        tenant, earlier = ask.tenant.name, ask.body.get("previous_response_id")
        before = self.conversations.chat(tenant, earlier) if earlier else []
        body = as_chat(ask.body, before)
        chat = [m for n, m in enumerate(body["messages"]) if n or not ask.body.get("instructions")]

        def keep(made: ResponseTranslation) -> None:
            if ask.body.get("store") is not False:
                self.conversations.keep(tenant, made.as_json(), [*chat, made.message()])

        return body, ResponseTranslation(ask.body, keep)


class ResponseTranslation(Translation):
    def __init__(self, asked: Mapping[str, Any], keep: Callable[[ResponseTranslation], None] = lambda _: None) -> None:
        super().__init__(asked)
        self.id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._events = 0
        self._keep = keep

    def ended(self) -> None:
        if not self.blocks:  # an empty answer is a message all the same
            self.blocks.append(Block("text", 0))
        self._keep(self)

    def message(self) -> dict[str, Any]:
        """The answer as a message of the chat."""
        said = {"role": "assistant", "content": "".join(b.text for b in self.blocks if b.kind == "text")}
        calls = [
            {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.text or "{}"}}
            for block in self.blocks
            if block.kind == "call"
        ]
        return said | ({"tool_calls": calls} if calls else {})

    @property
    def status(self) -> str:
        return {None: "in_progress", "length": "incomplete"}.get(self.finish, "completed")

    def opening(self) -> bytes:
        told = self.as_json()
        return self._event("response.created", response=told) + self._event("response.in_progress", response=told)

    def opened(self, block: Block) -> bytes:
        empty = {**self._item(block), "status": "in_progress"}
        if block.kind != "call":
            empty |= {"content": []}
        sent = self._event("response.output_item.added", output_index=block.place, item=empty)
        if block.kind == "text":
            sent += self._event("response.content_part.added", **self._place(block), part=_part(""))
        return sent

    def grew(self, block: Block, more: str) -> bytes:
        if block.kind == "call":
            place = {"item_id": self._item_id(block), "output_index": block.place}
            return self._event("response.function_call_arguments.delta", **place, delta=more)
        if block.kind == "reasoning":
            return self._event("response.reasoning_text.delta", **self._place(block), delta=more)
        return self._event("response.output_text.delta", **self._place(block), delta=more, logprobs=self.fresh_logprobs)

    def closed(self, block: Block) -> bytes:
        if block.kind == "call":
            place = {"item_id": self._item_id(block), "output_index": block.place}
            name, told = "response.function_call_arguments.done", {"name": block.name, "arguments": block.text}
            sent = self._event(name, **place, **told)
        elif block.kind == "reasoning":
            sent = self._event("response.reasoning_text.done", **self._place(block), text=block.text)
        else:
            sent = self._event(
                "response.output_text.done", **self._place(block), text=block.text, logprobs=block.logprobs
            )
            part = _part(block.text, block.logprobs)
            sent += self._event("response.content_part.done", **self._place(block), part=part)
        return sent + self._event("response.output_item.done", output_index=block.place, item=self._item(block))

    def closing(self) -> bytes:
        name = "response.incomplete" if self.status == "incomplete" else "response.completed"
        return self._event(name, response=self.as_json())

    def failed(self, message: str) -> bytes:
        return self._event("error", code="server_error", message=message, param=None)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": self.status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "metadata": self.asked.get("metadata") or {},
            "model": self.asked.get("model") or "",
            "output": [self._item(block) for block in self.blocks] if self.finish else [],
            "parallel_tool_calls": self.asked.get("parallel_tool_calls") is not False,
            "store": self.asked.get("store") is not False,
            "background": False,
            "top_logprobs": self.asked.get("top_logprobs") or 0,
            **{name: given if (given := self.asked.get(name)) is not None else v for name, v in REPEATED.items()},
            "usage": self._usage() if self.usage else None,
        }

    def _usage(self) -> dict[str, Any]:
        prompt, completion = self.usage.get("prompt_tokens", 0), self.usage.get("completion_tokens", 0)
        cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        reasoning = (self.usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": prompt + completion,
        }

    def _item_id(self, block: Block) -> str:
        prefix = {"call": "fc_", "reasoning": "rs_"}.get(block.kind, "msg_")
        return f"{prefix}{self.id.removeprefix('resp_')}{block.place or ''}"

    def _item(self, block: Block) -> dict[str, Any]:
        told: dict[str, Any]
        if block.kind == "call":
            told = {"call_id": block.id, "name": block.name, "arguments": block.text}
            return {"id": self._item_id(block), "type": "function_call", "status": self._status(block), **told}
        if block.kind == "reasoning":
            told = {"summary": [], "content": [{"type": "reasoning_text", "text": block.text}]}
            return {"id": self._item_id(block), "type": "reasoning", **told}
        content = [_part(block.text, block.logprobs)]
        return {
            "id": self._item_id(block),
            "type": "message",
            "role": "assistant",
            "status": self._status(block),
            "content": content,
        }

    def _status(self, block: Block) -> str:
        """An answer that is cut is cut in its last block."""
        return self.status if block is self.blocks[-1] else "completed"

    def _place(self, block: Block) -> dict[str, Any]:
        return {"item_id": self._item_id(block), "output_index": block.place, "content_index": 0}

    def _event(self, kind: str, /, **more: Any) -> bytes:
        made = event(kind, sequence_number=self._events, **more)
        self._events += 1
        return made


def _part(text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
