"""Run a gateway until SIGINT or SIGTERM: start the engines, then open the port; stop in the reverse order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType

import aiohttp
import uvicorn
import uvloop

from pennyweight import formats
from pennyweight.browsers import guarded
from pennyweight.errors import EngineError, UsageError
from pennyweight.evidence import Evidence
from pennyweight.processes import refuse_taken_port
from pennyweight.serve.gateway.application import application
from pennyweight.serve.gateway.cache_store import open_store
from pennyweight.serve.gateway.gateway import Gateway
from pennyweight.serve.gateway.guard import GuardedProtocol
from pennyweight.serve.gateway.keys import Keys
from pennyweight.serve.gateway.metrics import Metrics
from pennyweight.serve.gateway.old_clients import OldClients
from pennyweight.serve.gateway.pacing import Pacing
from pennyweight.serve.gateway.pool import Pools
from pennyweight.serve.gateway.request_ids import RequestIds
from pennyweight.serve.gateway.settings import GatewaySettings
from pennyweight.serve.gateway.similar_opening import open_similar
from pennyweight.service import Service

KEEP_ALIVE_SECONDS = 75
RELOAD_SECONDS = 600.0
CLOSING_SECONDS = 5  # for answers that were ended to be sent


def run(
    service: Service, settings: GatewaySettings, logs: Path, evidence: Evidence | None, on_ready: Callable[[str], None]
) -> None:
    """Run until SIGINT or SIGTERM. `on_ready` is called with the base URL."""
    refuse_taken_port(settings.host, settings.port)
    uvloop.run(_serve(service, settings, logs, evidence, on_ready))


async def _serve(
    service: Service, settings: GatewaySettings, logs: Path, evidence: Evidence | None, on_ready: Callable[[str], None]
) -> None:
    async with _gateway(service, settings, logs, evidence) as gateway:
        server = _Server(_configuration(gateway))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
        async with _control(gateway):
            serving = asyncio.create_task(server.serve())
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            scheme = "https" if settings.certificate else "http"
            on_ready(f"{scheme}://{settings.host}:{settings.port}")
            while not server.should_exit and not serving.done():
                await asyncio.sleep(0.05)
            await asyncio.gather(serving, gateway.drain(lambda: server.signals > 1))


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would raise them again when it has ended, before the engines have."""

    signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The second one hurries the end; uvicorn itself would cut answers off."""
        del frame
        self.signals += 1
        if self.signals == 1:
            super().handle_exit(sig, None)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _gateway(
    service: Service, settings: GatewaySettings, logs: Path, evidence: Evidence | None
) -> AsyncIterator[Gateway]:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    keys = Keys(settings.keys)
    store = open_store(service.cache) if service.cache.place else None
    metrics = Metrics()
    similar = open_similar(service.cache, metrics.registry, service.id, rebuild=settings.similar_rebuild)
    pools = Pools(service, settings, logs)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        try:
            await pools.start(session)
            gateway = Gateway(settings, pools, session, keys, store, evidence, metrics, similar)
            async with _batches(gateway):
                yield gateway
        finally:
            await pools.stop()
            if store is not None:
                await store.close()
            if similar is not None:
                await similar.close()


@asynccontextmanager
async def _batches(gateway: Gateway) -> AsyncIterator[None]:
    if gateway.batches is None:
        yield
        return
    working = asyncio.create_task(gateway.batches.work())
    try:
        yield
    finally:
        working.cancel()
        await gateway.batches.close()


def _configuration(gateway: Gateway) -> uvicorn.Config:
    settings = gateway.settings
    return uvicorn.Config(
        OldClients(
            RequestIds(
                Pacing(
                    guarded(
                        application(gateway),
                        host=settings.host,
                        open_to_all=gateway.keys.open,
                        origins=settings.allowed_origins,
                    ),
                    settings.refusals_per_second,
                )
            )
        ),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        http=GuardedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_seconds) + CLOSING_SECONDS,
        server_header=False,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.private_key,
    )


# -- `pw reload`, over a socket file that only its owner may use --


def control_file(port: int) -> Path:
    base = Path(os.environ.get("XDG_RUNTIME_DIR", tempfile.gettempdir())) / f"pennyweight-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.getuid() or base.stat().st_mode & 0o077:
        raise UsageError(f"{base} can be used by others: remove it.")
    return base / f"gateway-{port}.sock"


@asynccontextmanager
async def _control(gateway: Gateway) -> AsyncIterator[None]:
    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = json.loads(await reader.readline())
            place = Path(asked["service"])
            await gateway.swap(formats.read_service(place), formats.evidence_beside(place))
            answer = {"serving": gateway.pools.service.label}
        except Exception as error:  # whatever it is, the caller waits for a reply
            answer = {"error": str(error) or type(error).__name__}
        writer.write(json.dumps(answer).encode() + b"\n")
        with suppress(OSError):
            await writer.drain()
        writer.close()

    file = control_file(gateway.settings.port)
    file.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(obey, file, limit=2**26)
    try:
        yield
    finally:
        server.close()
        file.unlink(missing_ok=True)


def reload(port: int, service: Path) -> str:
    """Have the gateway on this port serve what this directory or file describes; returns what it serves then."""
    file = control_file(port)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(RELOAD_SECONDS)
        try:
            connection.connect(str(file))
        except OSError:
            raise UsageError(
                f"No gateway of yours is running on port {port}: start one with `pw serve`, or name its --port."
            ) from None
        connection.sendall(json.dumps({"service": str(service)}).encode() + b"\n")
        reply = json.loads(connection.makefile().readline() or "{}")
    if "error" in reply:
        raise EngineError(f"The reload failed and the service is unchanged: {reply['error']}")
    return str(reply.get("serving", ""))
