"""One request to an OpenAI endpoint, with the arrival times of its chunks."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp

from pennyweight.errors import EndpointError
from pennyweight.measure.record import Reading, Record, is_cached
from pennyweight.workload import Request

SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "seed", "n")
DROPPED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
REQUEST_TIMEOUT = 600.0
IDLE_DROP_SECONDS = 0.5  # a kept connection that had closed before shows it at once
STALL_TIMEOUT = 120.0  # seconds without a byte after which the server counts as hung


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. `ignore_eos` keeps the recorded output lengths of a length-only trace.

    Temperature None: each request's own sampling fields, or greedy where it has none. A number stands for all of them.
    """

    temperature: float | None = None
    seed: int | None = None
    ignore_eos: bool = False


def body_of(request: Request, model: str, sampling: Sampling) -> tuple[str, dict[str, Any]]:
    """The path and JSON body of a request."""
    own = dict(request.fields)
    if sampling.temperature is not None:
        own = {name: value for name, value in own.items() if name not in SAMPLING_FIELDS}
        own["temperature"] = sampling.temperature
    body: dict[str, Any] = {"model": model, "max_tokens": request.max_tokens, "temperature": 0.0, **own}
    if sampling.seed is not None and (sampling.temperature is not None or "seed" not in own):
        body["seed"] = sampling.seed
    if sampling.ignore_eos:
        body["ignore_eos"] = True
    if request.messages:
        return "/v1/chat/completions", body | {"messages": [dict(m) for m in request.messages]}
    return "/v1/completions", body | {"prompt": list(request.prompt_tokens) or request.prompt}


class Client:
    """A connection pool to one endpoint."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        model: str,
        api_key: str | None = None,
        count_tokens: Callable[[str], int] | None = None,
        *,
        caches: bool = False,
    ) -> None:
        self._session, self._base_url, self.model = session, base_url.rstrip("/"), model
        self._count_tokens = count_tokens
        # A cached answer does not measure the engine: this header bypasses the cache of pennyweight's gateway.
        self._headers = {"content-type": "application/json", **({} if caches else {"x-pennyweight-cache": "no"})}
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
            async with await self._post_with_retry(self._base_url + path, payload, record=record) as answer:
                if answer.status != 200:
                    record.error = f"HTTP {answer.status}: {_message(await answer.text())}"
                else:
                    record.cached = is_cached(answer.headers)
                    reading = Reading(record)
                    async for data in answer.content.iter_any():
                        reading.feed(data, time.perf_counter())
                    reading.close(time.perf_counter(), self._count_tokens)
        except aiohttp.SocketTimeoutError:
            record.error = f"the server sent nothing for {self._session.timeout.sock_read:g} s"
        except TimeoutError:
            record.error = f"no answer within {self._session.timeout.total:g} s"
        except (aiohttp.ClientError, ConnectionError) as error:
            record.error = f"{type(error).__name__}: {error}"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            record.error = f"the stream holds no OpenAI chunk ({type(error).__name__}: {error})"
        record.finished = record.finished or time.perf_counter()
        return record

    async def _post_with_retry(
        self, url: str, data: bytes, timeout: aiohttp.ClientTimeout | None = None, *, record: Record | None = None
    ) -> aiohttp.ClientResponse:
        """Post again if the server closed a kept-alive connection just as it was reused: that is not a failed request,
        as long as it closes at once. One that closes later may have worked on it, and that request has failed.
        llama-server closes every connection after its answer although it announces keep-alive."""
        limits = timeout or self._session.timeout
        while True:
            reused: dict[str, bool] = {}
            begun = time.perf_counter()
            try:
                return await self._session.post(
                    url, data=data, headers=self._headers, timeout=limits, trace_request_ctx=reused
                )
            except DROPPED:
                if not reused or time.perf_counter() - begun > IDLE_DROP_SECONDS:
                    raise
                if record is not None:
                    record.retries += 1

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer; anything but 200 is an `EndpointError`."""
        return (await self.exchange(path, body))[1]

    async def exchange(self, path: str, body: Mapping[str, Any]) -> tuple[Mapping[str, str], dict[str, Any]]:
        """As `post`, with the answer's headers."""
        url = self._base_url + path
        try:
            data = json.dumps(body).encode()
            # A whole answer sends nothing while it is made, so only its total time is bounded.
            async with await self._post_with_retry(url, data, self._whole) as answer:
                text = await answer.text()
                if answer.status != 200:
                    fault = EndpointError(f"{url} answered {answer.status}: {_message(text)}")
                    fault.status = answer.status
                    raise fault
                value: dict[str, Any] = json.loads(text)
                return answer.headers, value
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise EndpointError(f"{url} did not answer ({type(error).__name__}: {error}): is it running?") from None
        except ValueError as error:
            raise EndpointError(f"{url} answered with no JSON ({error}): is it an OpenAI endpoint?") from None

    async def get(self, path: str) -> dict[str, Any]:
        """What a page of the server says, such as `/status` of pennyweight's gateway."""
        url = self._base_url + path
        try:
            async with self._session.get(url, headers=self._headers, timeout=self._whole) as answer:
                found: dict[str, Any] = json.loads(await answer.text())
                return found
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise EndpointError(f"{url} gave no JSON ({type(error).__name__}: {error}): is it running?") from None

    async def models(self) -> list[dict[str, Any]]:
        url = self._base_url + "/v1/models"
        try:
            async with self._session.get(url, headers=self._headers) as answer:
                text = await answer.text()
                if answer.status in (401, 403):
                    raise EndpointError(
                        f"{url} answered {answer.status}: {_message(text)}: set OPENAI_API_KEY to a key that it takes."
                    )
                if answer.status != 200:
                    raise EndpointError(
                        f"{url} answered {answer.status}: {_message(text)}: give the address before /v1, or name the "
                        "model with --model."
                    )
                models = list(json.loads(text)["data"])
                if not all(isinstance(model, dict) and "id" in model for model in models):
                    raise ValueError
                return models
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EndpointError(f"{url} did not answer ({type(error).__name__}): is the server running?") from None
        except (ValueError, KeyError, TypeError):
            raise EndpointError(f"{url} gave no list of models: is it an OpenAI endpoint?") from None


@asynccontextmanager
async def connect(
    base_url: str,
    model: str,
    *,
    timeout: float = REQUEST_TIMEOUT,
    stall: float | None = STALL_TIMEOUT,
    api_key: str | None = None,
    count_tokens: Callable[[str], int] | None = None,
    caches: bool = False,
) -> AsyncIterator[Client]:
    """A client for one endpoint.

    timeout       seconds that a request may take
    stall         seconds without a byte of a stream after which the server counts as hung; None: only `timeout` counts
    count_tokens  counts the tokens of an answer whose server reports no usage
    caches        let pennyweight's gateway answer from its caches, as clients do
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    limits = aiohttp.ClientTimeout(total=timeout, sock_read=None if stall is None else min(timeout, stall))
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_mark_reused)
    async with aiohttp.ClientSession(
        connector=connector, timeout=limits, read_bufsize=1 << 20, trace_configs=[trace]
    ) as session:
        yield Client(session, base_url, model, api_key, count_tokens, caches=caches)


async def _mark_reused(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    del session, params
    if context.trace_request_ctx is not None:
        context.trace_request_ctx["reused"] = True


def _message(text: str) -> str:
    """OpenAI's error message, or the beginning of the response."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:200]
