"""One request to an OpenAI endpoint, with the arrival times of its chunks."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import aiohttp

from pennyweight.errors import EndpointError
from pennyweight.workload import Request

DROPPED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
REQUEST_TIMEOUT = 600.0
STALL_TIMEOUT = 120.0  # seconds without a byte after which the server counts as hung


@dataclass
class Record:
    """What happened to one request. Times are seconds of one monotonic clock; `chunks` holds content chunks only."""

    id: str
    scheduled: float
    sent: float = 0.0
    chunks: list[float] = field(default_factory=list)
    finished: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    finish_reason: str | None = None
    error: str | None = None

    @property
    def ttft(self) -> float:
        """Request sent to first non-empty content chunk."""
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


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. `ignore_eos` keeps the recorded output lengths of a length-only trace."""

    temperature: float = 0.0
    seed: int | None = None
    ignore_eos: bool = False


def body_of(request: Request, model: str, sampling: Sampling) -> tuple[str, dict[str, Any]]:
    """The path and JSON body of a request."""
    body: dict[str, Any] = {"model": model, "max_tokens": request.max_tokens, "temperature": sampling.temperature}
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.ignore_eos:
        body["ignore_eos"] = True
    if request.messages:
        return "/v1/chat/completions", body | {"messages": [dict(m) for m in request.messages]}
    return "/v1/completions", body | {"prompt": list(request.prompt_tokens) or request.prompt}


class Client:
    """A connection pool to one endpoint."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, model: str, api_key: str | None = None) -> None:
        self._session, self._base_url, self.model = session, base_url.rstrip("/"), model
        # A cached answer does not measure the engine: this header bypasses the cache of pennyweight's gateway.
        self._headers = {"content-type": "application/json", "x-pennyweight-cache": "no"}
        self._whole = aiohttp.ClientTimeout(total=session.timeout.total)
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"

    async def stream(self, request: Request, sampling: Sampling, record: Record) -> Record:
        """Fill `record` while the answer streams in. A failure is written into it, never raised."""
        path, body = body_of(request, self.model, sampling)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        payload = json.dumps(body).encode()
        record.sent = time.perf_counter()
        try:
            async with await self._post_with_retry(self._base_url + path, payload) as answer:
                if answer.status != 200:
                    record.error = f"HTTP {answer.status}: {_message(await answer.text())}"
                else:
                    await self._read_events(answer, record)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            record.error = f"{type(error).__name__}: {error}"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            record.error = f"the stream holds no OpenAI chunk ({type(error).__name__}: {error})"
        record.finished = record.finished or time.perf_counter()
        if record.error is None and not record.chunks:
            if record.output_tokens:  # only special tokens, so no text: the end counts as the first chunk
                record.chunks.append(record.finished)
            else:
                record.error = "the stream ended without any content"
        return record

    async def _read_events(self, answer: aiohttp.ClientResponse, record: Record) -> None:
        pieces: list[str] = []
        rest = b""
        async for data in answer.content.iter_any():
            now = time.perf_counter()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                # Each event of this API is one data line; a space after the colon and a carriage return may be there.
                value = line[5:].strip() if line.startswith(b"data:") else b""
                if value and value != b"[DONE]":
                    _record_event(json.loads(value), now, record, pieces)
        record.text = "".join(pieces)
        record.output_tokens = record.output_tokens or len(record.chunks)  # a server without usage: one token a chunk

    async def _post_with_retry(
        self, url: str, data: bytes, timeout: aiohttp.ClientTimeout | None = None
    ) -> aiohttp.ClientResponse:
        """Post again if the server closed a kept-alive connection just as it was reused: that is not a failed request.
        llama-server closes every connection after its answer although it announces keep-alive."""
        limits = timeout or self._session.timeout
        while True:
            reused: dict[str, bool] = {}
            try:
                return await self._session.post(
                    url, data=data, headers=self._headers, timeout=limits, trace_request_ctx=reused
                )
            except DROPPED:
                if not reused:
                    raise

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer; anything but 200 is an `EndpointError`."""
        url = self._base_url + path
        try:
            data = json.dumps(body).encode()
            # A whole answer sends nothing while it is made, so only its total time is bounded.
            async with await self._post_with_retry(url, data, self._whole) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise EndpointError(f"{url} answered {answer.status}: {_message(text)}")
                value: dict[str, Any] = json.loads(text)
                return value
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise EndpointError(f"{url} did not answer ({type(error).__name__}: {error}): is it running?") from None
        except ValueError as error:
            raise EndpointError(f"{url} answered with no JSON ({error}): is it an OpenAI endpoint?") from None

    async def models(self) -> list[dict[str, Any]]:
        url = self._base_url + "/v1/models"
        try:
            async with self._session.get(url, headers=self._headers) as answer:
                value = json.loads(await answer.text())
                return list(value["data"])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EndpointError(f"{url} did not answer ({type(error).__name__}): is the server running?") from None
        except (ValueError, KeyError, TypeError):
            raise EndpointError(f"{url} gave no list of models: is it an OpenAI endpoint?") from None


@asynccontextmanager
async def connect(
    base_url: str, model: str, *, timeout: float = REQUEST_TIMEOUT, api_key: str | None = None
) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    limits = aiohttp.ClientTimeout(total=timeout, sock_read=min(timeout, STALL_TIMEOUT))
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_mark_reused)
    async with aiohttp.ClientSession(
        connector=connector, timeout=limits, read_bufsize=1 << 20, trace_configs=[trace]
    ) as session:
        yield Client(session, base_url, model, api_key)


async def _mark_reused(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    del session, params
    if context.trace_request_ctx is not None:
        context.trace_request_ctx["reused"] = True


def _record_event(event: Mapping[str, Any], now: float, record: Record, pieces: list[str]) -> None:
    if "error" in event:
        record.error = str(event["error"].get("message", event["error"]))
        return
    usage = event.get("usage")
    if usage:
        record.prompt_tokens = usage["prompt_tokens"]
        record.output_tokens = usage["completion_tokens"]
    choices: Sequence[Mapping[str, Any]] = event.get("choices") or ()
    for choice in choices:
        text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
        if text:
            record.chunks.append(now)
            pieces.append(text)
        if choice.get("finish_reason"):
            record.finish_reason = choice["finish_reason"]
            record.finished = now


def _message(text: str) -> str:
    """OpenAI's error message, or the beginning of the response."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
