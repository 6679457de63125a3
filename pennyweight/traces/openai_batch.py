"""OpenAI batch JSONL: {"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {…}} a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pennyweight.traces.lines import Line, answer_fields, checked, each_line, messages_of
from pennyweight.workload import Request, Workload


def recognises(head: str) -> bool:
    first = head.splitlines()[0]
    return '"custom_id"' in first and '"body"' in first


def read(path: Path, skip_invalid: Callable[[str], None] | None = None) -> Workload:
    return Workload(path.stem, checked(path, each_line(path, _request, skip_invalid), skip_invalid))


def _request(line: Line) -> Request:
    body = line.value.get("body")
    if not isinstance(body, dict):
        raise line.fault("body is missing")
    identifier = str(line.value.get("custom_id", f"line-{line.number}"))
    limits = Line(line.file, line.number, body)
    limit_name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    max_tokens = limits.count(limit_name) if body.get(limit_name) is not None else 128
    url = line.value.get("url")
    fields = answer_fields(limits)
    if url == "/v1/chat/completions":
        messages = messages_of(line, body.get("messages"))
        return Request(identifier, identifier, max_tokens, messages=messages, fields=fields)
    if url == "/v1/completions" and isinstance(body.get("prompt"), str) and body["prompt"]:
        return Request(identifier, identifier, max_tokens, prompt=body["prompt"], fields=fields)
    raise line.fault(f"url {url!r} cannot be replayed: use /v1/chat/completions, or /v1/completions with a text prompt")
