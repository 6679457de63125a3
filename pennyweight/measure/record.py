"""What happened to one request: its record, and how a stream of events fills it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# Response headers by which servers say that an answer came from a cache -> the values that mean so.
CACHE_HEADERS = {
    "x-pennyweight-cache": ("hit", "shared"),
    "x-litellm-cache-hit": ("true",),
    "x-cache": ("hit",),
    "x-semantic-cache": ("hit",),
}
Counted = Literal["usage", "tokenizer", "chunks"]


@dataclass
class Record:
    """Times are seconds of one monotonic clock; `chunks` holds those with content, reasoning or a tool call.
    `counted` says where `output_tokens` comes from, `retries` how often a closed connection was opened anew."""

    id: str
    scheduled: float
    sent: float = 0.0
    chunks: list[float] = field(default_factory=list)
    finished: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    counted: Counted = "usage"
    text: str = ""
    finish_reason: str | None = None
    error: str | None = None
    cached: bool = False
    retries: int = 0

    @property
    def ttft(self) -> float:
        """Request sent to first chunk with content, reasoning or a tool call."""
        return self.chunks[0] - self.sent

    @property
    def e2e(self) -> float:
        return self.finished - self.sent

    @property
    def tpot(self) -> float | None:
        """(end-to-end - TTFT) / (output tokens - 1); a single token has none."""
        return (self.e2e - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def itl(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.chunks, self.chunks[1:], strict=False)]

    @property
    def lag(self) -> float:
        """Seconds by which the load generator sent the request late."""
        return self.sent - self.scheduled


class Reading:
    """Server-sent events of an OpenAI stream into a record, bytes as they come. A stream that ends without
    finish_reason and without `[DONE]` was cut off: its request has failed. One without content has failed, too, unless
    the server says that the model ended its answer with its first token."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._rest = b""
        self._pieces: list[str] = []
        self._done = False
        self._reports_none = False  # usage says that no token was generated

    def feed(self, data: bytes, now: float) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line, now)

    def close(self, now: float, count_tokens: Callable[[str], int] | None) -> None:
        """The stream has ended. `count_tokens` counts an answer's tokens where the server reported no usage."""
        if self._rest:
            self._line(self._rest, now)  # the last event needs no newline
        record = self._record
        record.text = "".join(self._pieces)
        if record.error is None and not (self._done or record.finish_reason):
            record.error = "the stream ended without finish_reason and without [DONE]"
        ended_at_once = self._reports_none and record.finish_reason == "stop" and not record.chunks
        if record.error is None and not record.chunks:
            if record.output_tokens or ended_at_once:  # no text: the end counts as the first chunk
                record.chunks.append(record.finished or now)
            else:
                record.error = "the stream ended without any content"
        if record.error is None and not record.output_tokens and not ended_at_once:
            record.counted = "tokenizer" if count_tokens else "chunks"
            record.output_tokens = count_tokens(record.text) if count_tokens else len(record.chunks)

    def _line(self, line: bytes, now: float) -> None:
        # Each event of this API is one data line; a space after the colon and a carriage return may be there.
        value = line[5:].strip() if line.startswith(b"data:") else b""
        if value == b"[DONE]":
            self._done = True
        elif value:
            self._event(json.loads(value), now)

    def _event(self, event: Mapping[str, Any], now: float) -> None:
        record = self._record
        if event.get("error"):
            fault = event["error"]
            record.error = str(fault.get("message", fault)) if isinstance(fault, dict) else str(fault)
            return
        usage = event.get("usage") or {}
        record.prompt_tokens = _count(usage.get("prompt_tokens")) or record.prompt_tokens
        record.output_tokens = _count(usage.get("completion_tokens")) or record.output_tokens
        self._reports_none = self._reports_none or usage.get("completion_tokens") == 0
        choices: Sequence[Mapping[str, Any]] = event.get("choices") or ()
        for choice in choices:
            text = _generated(choice)
            if text:
                record.chunks.append(now)
                self._pieces.append(text)
            if choice.get("finish_reason"):
                record.finish_reason = choice["finish_reason"]
                record.finished = now


def _count(value: Any) -> int:
    """A number of tokens as a server reports it; what is none counts as not reported."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def is_cached(headers: Mapping[str, str]) -> bool:
    """Does the server say that this answer came from a cache?"""
    return any(headers.get(name, "").lower() in hits for name, hits in CACHE_HEADERS.items())


def _generated(choice: Mapping[str, Any]) -> str:
    """All that the model generated in one chunk: content, reasoning (as vLLM and others spell it) and tool calls."""
    if "delta" not in choice:
        return choice.get("text") or ""
    delta = choice["delta"] or {}
    reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""  # some servers send it under both names
    pieces = [reasoning, delta.get("content") or "", delta.get("refusal") or ""]
    calls = [call.get("function") for call in delta.get("tool_calls") or ()]
    for function in filter(None, [*calls, delta.get("function_call")]):
        pieces += [function.get("name") or "", function.get("arguments") or ""]
    return "".join(pieces)
