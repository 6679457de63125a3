"""One member of the service in the gateway: its replicas, and the queue in front of them. Each pool has its own
capacity; all share one HTTP application."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import aiohttp

from pennyweight import engines
from pennyweight.deployment import Deployment
from pennyweight.serve.gateway.admission import Admission
from pennyweight.serve.gateway.replicas import Replicas
from pennyweight.serve.gateway.settings import GatewaySettings
from pennyweight.service import Service

SMALL_BYTES = 32 * 2**20


class Pool:
    """`successor` is the pool that a reload put in this one's place, once it is closed."""

    def __init__(
        self, member: str, service: Service, settings: GatewaySettings, *, logs: Path, numbers: Iterator[int]
    ) -> None:
        self.member, self.names = member, service.names_of(member)
        self.deployment: Deployment = service.members[member]
        self.replicas = Replicas(
            self.deployment, self.names, settings, count=service.replicas_of(member), logs=logs, numbers=numbers
        )
        self.queue = Admission(lambda: self.replicas.capacity, settings.max_queue, settings.slo_ttft_ms / 1000)
        self.replicas.on_change = self._replicas_changed
        self.identity = _identity(self.deployment)
        self.card: dict[str, object] = {}
        self.successor: Pool | None = None

    def _replicas_changed(self) -> None:
        if self.replicas.gone:  # nothing comes back: everybody hears now what was lost
            self.queue.release()
        else:
            self.queue.dispatch()

    @property
    def closed(self) -> bool:
        return self.successor is not None

    @property
    def gives_embeddings(self) -> bool:
        pooling = self.deployment.settings.get("runner") == "pooling"  # vLLM's
        return pooling or engines.engine_class(self.deployment.engine).embeds


def _identity(deployment: Deployment) -> str:
    """Equal where the same files answer: the contents of small ones, such as a chat template or a tokenizer, and size
    and time of weights."""
    made = hashlib.sha256(f"{metadata.version('pennyweight')} {deployment.id}".encode())
    for file in sorted(Path(deployment.model_path).rglob("*")):
        if file.is_file():
            found = file.stat()
            told = file.read_bytes() if found.st_size <= SMALL_BYTES else str(found.st_mtime_ns).encode()
            made.update(f"{file.name} {found.st_size} ".encode() + told)
    return made.hexdigest()


class Pools:
    """The service that is running. A request keeps the pool that took it, whatever is reloaded meanwhile."""

    def __init__(self, service: Service, settings: GatewaySettings, logs: Path) -> None:
        self._settings, self._logs = settings, logs
        self._numbers = itertools.count(1)
        self._replaced: list[Pool] = []
        self.service = service
        self.by_member = self._made(service)

    @property
    def all(self) -> list[Pool]:
        return list(self.by_member.values())

    @property
    def default(self) -> Pool:
        member = self.service.member_for(None)
        assert member is not None
        return self.by_member[member]

    def pool_for(self, name: str | None) -> Pool | None:
        """Of the member that answers requests for this model name."""
        member = self.service.member_for(name)
        return None if member is None else self.by_member[member]

    async def start(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        await self._start(self.by_member)

    async def swap(self, service: Service) -> None:
        """New engines first, then the old ones drain: no request is dropped. If the new do not start, the old stay."""
        made = self._made(service)
        await self._start(made)
        old, self.by_member, self.service = self.by_member, made, service
        for pool in old.values():
            pool.successor = made.get(pool.member) or self.default
            self._replaced.append(pool)
            pool.replicas.retire(pool.queue)

    async def stop(self) -> None:
        for pool in (*self.all, *self._replaced):
            await pool.replicas.stop()

    def _made(self, service: Service) -> dict[str, Pool]:
        return {
            member: Pool(member, service, self._settings, logs=self._logs, numbers=self._numbers)
            for member in service.members
        }

    async def _start(self, pools: dict[str, Pool]) -> None:
        try:
            for pool in pools.values():
                await pool.replicas.start(self._session)
                pool.card = await pool.replicas.card()
        except BaseException:
            for pool in pools.values():
                await pool.replicas.stop()
            raise
