"""OpenAI's batch API: low-priority work, done when the engines have free slots."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pennyweight.errors import PennyweightError
from pennyweight.openai_api.errors import error_body
from pennyweight.openai_api.fields import instead
from pennyweight.serve.gateway import reading
from pennyweight.serve.gateway.ask import Ask, Head, Stage
from pennyweight.serve.gateway.batch_store import BatchStore, Item, StoredFile
from pennyweight.serve.gateway.mixtures import Mixed
from pennyweight.serve.gateway.pool import Pool
from pennyweight.serve.gateway.refusals import Refused, Shed
from pennyweight.serve.gateway.tenant import BATCH, Tenant

LOG = logging.getLogger("pennyweight.gateway")
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
FIELDS = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
LEAST_LASTING, MOST_LASTING = 3600, 30 * 24 * 3600  # seconds that a file may be kept, as OpenAI has them
WINDOW = "24h"  # the only completion_window that OpenAI's API has
LOOK_SECONDS = 0.5
PAUSE_SECONDS = 5.0  # after a fault of the disk
MAX_FAULTS = 20
ATTEMPTS = 3  # of an item that engines cannot answer: each are several already
PIECE = 2**20
T = TypeVar("T")


def lasting(field: str, anchor: object, seconds: object) -> int | None:
    """Seconds that a file is kept, as OpenAI's `expires_after` says it; None: until it is removed."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at" or not isinstance(seconds, int) or isinstance(seconds, bool):
        raise Refused(400, f"{field} has an anchor, created_at, and seconds.", field)
    if not LEAST_LASTING <= seconds <= MOST_LASTING:
        raise Refused(400, f"{field} takes {LEAST_LASTING} to {MOST_LASTING} seconds.", field)
    return seconds


def _results_last(asked: object) -> int | None:
    if asked is None:
        return None
    told = asked if isinstance(asked, dict) else {"anchor": "?"}
    return lasting("output_expires_after", told.get("anchor", ""), told.get("seconds", ""))


class Batches:
    """`answer` is the first stage of a request, `room` the number that may run at once; `pool_for` finds the pool of a
    model's name, `mixed_for` its mixture if it is one's, `tenant_of` the owner of a key by name."""

    def __init__(
        self,
        directory: Path,
        answer: Stage,
        *,
        room: Callable[[], int],
        pool_for: Callable[[Any], Pool],
        tenant_of: Callable[[str], Tenant | None],
        mixed_for: Callable[[Any], Mixed | None] = lambda _: None,
    ) -> None:
        self._store = BatchStore(directory)
        self._answer, self._room, self._pool_for, self._tenant_of = answer, room, pool_for, tenant_of
        self._mixed_for = mixed_for
        self._paused: dict[str, float] = {}  # tenants over their limit, until when
        self._thread = ThreadPoolExecutor(1, "batches")
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._attempts: dict[tuple[str, int], int] = {}
        self._news = asyncio.Event()
        self.progress: Mapping[str, int] = {}  # of all open batches, a moment ago

    async def work(self) -> None:
        """Run until cancelled. When the disk is full, wait and retry: no finished item is lost, and none counts as
        done before it is written."""
        while True:
            try:
                await self._fill()
                await self._call(self._store.end_whole, {batch for batch, _ in self._running})
                self.progress = await self._call(self._store.progress)
                pause = LOOK_SECONDS
            except Exception as error:  # a full disk, or a fault of ours: either way the others' work goes on
                LOG.warning("the queue of batches cannot go on: %s", error)
                pause = PAUSE_SECONDS
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), pause)
            except TimeoutError:
                continue

    async def close(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await self._call(self._store.close)
        self._thread.shutdown()

    async def _fill(self) -> None:
        free = self._room() - len(self._running)
        if free > 0:
            paused = [tenant for tenant, until in self._paused.items() if until > time.monotonic()]
            for item in await self._call(self._store.waiting, free, set(self._running), paused):
                key = (item.batch, item.line)
                task = self._running[key] = asyncio.create_task(self._run(item))
                task.add_done_callback(lambda _, key=key: self._ended(key))  # type: ignore[misc]

    def _ended(self, key: tuple[str, int]) -> None:
        del self._running[key]
        self._news.set()

    async def _run(self, item: Item) -> None:
        key = (item.batch, item.line)
        try:
            status, answer = await self._answered(item)
        except Shed as shed:  # over its key's limit: later
            self._paused[item.tenant] = time.monotonic() + shed.retry_after
            return
        except PennyweightError as error:
            self._attempts[key] = self._attempts.get(key, 0) + 1
            LOG.warning("an item of %s got no answer: %s", item.batch, error)
            if self._attempts[key] < ATTEMPTS:
                await asyncio.sleep(PAUSE_SECONDS)
                return
            status, answer = 503, json.dumps(error_body(str(error), "server_error"))
        except Exception as error:
            LOG.error("an item of %s failed", item.batch, exc_info=error)
            fault = f"The gateway failed ({type(error).__name__})."
            status, answer = 500, json.dumps(error_body(fault, "server_error"))
        self._attempts.pop(key, None)
        try:
            await self._call(self._store.finish, item, status, answer)
        except (sqlite3.Error, OSError) as error:
            LOG.warning("an answer of %s could not be written and will be asked for again: %s", item.batch, error)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _answered(self, item: Item) -> tuple[int, str]:
        body = json.loads(item.body)
        pool = self._pool_for(body.get("model"))
        if body.get("model") not in (None, "", *pool.names):  # a reload took the name away
            body["model"] = pool.names[0]
        tenant = self._tenant_of(item.tenant) or Tenant(item.tenant)
        ask = Ask.of(item.endpoint, body, json.dumps(body).encode(), tenant, pool)
        head, parts = None, list[bytes]()
        mixed = self._mixed_for(body.get("model"))
        async for piece in self._answer(replace(ask, priority=BATCH, mixed=mixed)):
            if isinstance(piece, Head):
                head = piece
            elif isinstance(piece, bytes):
                parts.append(piece)
        assert head is not None
        return head.status, b"".join(parts).decode(errors="replace")

    # -- what clients ask --

    async def upload(
        self, tenant: str, filename: str, purpose: str, content: BinaryIO, lasts: int | None = None
    ) -> StoredFile:
        if purpose != "batch":
            raise Refused(400, f"Files of purpose {purpose[:50]!r} are not kept: use batch.", "purpose")

        def pieces() -> Iterator[bytes]:
            while piece := content.read(PIECE):
                yield piece

        return await self._kept(self._store.add_file, tenant, filename[:200], purpose, pieces(), lasts)

    async def files(self, tenant: str) -> list[StoredFile]:
        return await self._call(self._store.files, tenant)

    async def file(self, tenant: str, file_id: str) -> StoredFile:
        found = await self._call(self._store.file, tenant, file_id)
        if found is None:
            raise Refused(404, f"There is no file {file_id[:60]!r} of yours.", "file_id")
        return found

    def path(self, file: StoredFile) -> Path:
        return self._store.path(file.id)

    async def remove(self, tenant: str, file_id: str) -> None:
        await self.file(tenant, file_id)
        await self._kept(self._store.remove_file, tenant, file_id)

    def _check(self, name: Any) -> None:
        pool = self._pool_for(name)
        if name not in (None, "", *pool.names):
            raise Refused(
                404, f"The model {str(name)[:100]!r} is not served here: use {', '.join(pool.names)}.", "model"
            )

    async def create(self, tenant: str, body: Mapping[str, Any]) -> dict[str, Any]:
        for name in body:
            if name not in FIELDS:
                raise Refused(400, f"{name[:60]} is no field of a batch: {instead(name, FIELDS)}.", name[:60])
        endpoint, file_id, metadata = body.get("endpoint"), body.get("input_file_id"), body.get("metadata") or {}
        if endpoint not in ENDPOINTS:
            raise Refused(400, f"endpoint must be one of {', '.join(ENDPOINTS)}.", "endpoint")
        if not isinstance(file_id, str) or not writable(file_id):
            raise Refused(400, "input_file_id must name a file.", "input_file_id")
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise Refused(400, "metadata is an object of texts.", "metadata")
        lasts = _results_last(body.get("output_expires_after"))
        if body.get("completion_window", WINDOW) != WINDOW:
            raise Refused(400, f"completion_window must be {WINDOW}.", "completion_window")
        file = await self.file(tenant, file_id)
        items, faults = await self._call(self._read, self.path(file), endpoint)
        made = await self._kept(self._store.add_batch, tenant, endpoint, file.id, metadata, items, faults, lasts)
        self._news.set()
        return await self.batch(tenant, made)

    async def batch(self, tenant: str, batch: str) -> dict[str, Any]:
        found = await self._call(self._store.batch, tenant, batch)
        if found is None:
            raise Refused(404, f"There is no batch {batch[:60]!r} of yours.", "batch_id")
        return found

    async def batches(self, tenant: str) -> list[dict[str, Any]]:
        return await self._call(self._store.batches, tenant)

    async def cancel(self, tenant: str, batch: str) -> dict[str, Any]:
        await self.batch(tenant, batch)
        await self._kept(self._store.cancel, tenant, batch)
        for (name, _), task in list(self._running.items()):
            if name == batch:
                task.cancel()
        self._news.set()
        return await self.batch(tenant, batch)

    def _read(self, file: Path, endpoint: str) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
        """The items of an input file, and what is wrong with it."""
        items: list[tuple[str, str]] = []
        faults: list[dict[str, Any]] = []
        names: set[str] = set()
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    name, body = self._item(line, endpoint)
                    if name in names:
                        raise Refused(400, f"custom_id {name[:50]!r} occurs twice.")
                    names.add(name)
                    items.append((name, body))
                except PennyweightError as error:
                    faults.append({"code": "invalid_line", "line": number, "message": str(error), "param": None})
                    if len(faults) >= MAX_FAULTS:
                        break
        if not items and not faults:
            faults.append({"code": "empty_file", "line": None, "message": "The file has no requests.", "param": None})
        return ([] if faults else items), faults

    def _item(self, line: bytes, endpoint: str) -> tuple[str, str]:
        row = reading.parsed(line)
        name, body = row.get("custom_id"), row.get("body")
        if not isinstance(name, str) or not isinstance(body, dict) or not writable(name):
            raise Refused(400, "A line needs custom_id, a text, and body, an object.")
        if row.get("method", "POST") != "POST" or row.get("url", endpoint) != endpoint:
            raise Refused(400, f"A line must ask POST {endpoint}, as its batch does.")
        if body.get("stream"):
            raise Refused(400, "A batch does not stream: remove stream.")
        self._check(body.get("model"))
        return name, json.dumps(body)

    async def _kept(self, work: Callable[..., T], *arguments: Any) -> T:
        """What must be on disk before the client hears of it."""
        try:
            return await self._call(work, *arguments)
        except (sqlite3.Error, OSError) as error:
            raise Refused(507, f"The gateway's disk takes nothing more ({error}): nothing was kept.") from None

    async def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def writable(text: str) -> bool:
    """False for lone surrogates, which SQLite cannot store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
