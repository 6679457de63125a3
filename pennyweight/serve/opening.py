"""Service -> running endpoint. What is measured is what is served: both come from here.

`open_service` starts the engines and the gateway in front of them, in a process of its own, and yields the gateway's
address: queue, caches and replicas are inside of what is measured. `open_engine` starts an engine alone.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pennyweight.deployment import Deployment
from pennyweight.processes import free_port
from pennyweight.serve.catalogue import REMOTE
from pennyweight.serve.gateway.settings import GatewaySettings
from pennyweight.serve.launchers import local
from pennyweight.serve.process import ServerProcess
from pennyweight.service import Service

START_TIMEOUT = 300.0
# A measurement must see a lost engine as an error, not have it restarted, and needs no limit on the queue.
MEASURING = GatewaySettings(
    max_queue=1_000_000,
    request_bytes=2**26,
    stall_seconds=0.0,
    drain_seconds=1.0,
    refusals_per_second=0.0,
    restart=False,
)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI endpoint. `process` is None for a server that we did not start and cannot measure."""

    base_url: str
    model: str
    process: ServerProcess | None = None
    api_key: str | None = None

    def kernels(self) -> tuple[str, ...]:
        """The matrix-multiplication kernels that the engine reports; empty if it reports none."""
        return self.process.kernels() if self.process is not None else ()


@contextlib.contextmanager
def open_service(
    service: Service,
    *,
    settings: GatewaySettings = MEASURING,
    logs: Path | None = None,
    start_timeout: float = START_TIMEOUT,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Endpoint]:
    """The gateway's endpoint of this service for as long as the context lasts. A port of 0 or the default one means any
    free port. Raises `EngineError` with the engine's own sentence if it does not start."""
    if service.only is not None and service.only.engine == REMOTE:
        yield _remote(service.only)
        return
    with contextlib.ExitStack() as stack:
        place = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pennyweight-")))
        port = settings.port if settings.port != GatewaySettings.port else free_port(settings.host)
        settings = replace(settings, port=port, start_seconds=start_timeout)
        gateway = local.start_gateway(service, settings, place)
        stack.callback(gateway.stop)
        gateway.wait_healthy(start_timeout, tick)
        yield Endpoint(gateway.base_url, service.names[0], gateway)


@contextlib.contextmanager
def open_engine(
    deployment: Deployment,
    *,
    log: Path | None = None,
    start_timeout: float = START_TIMEOUT,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Endpoint]:
    """The engine of this deployment alone, with no gateway in front of it."""
    if deployment.engine == REMOTE:
        yield _remote(deployment)
        return
    with contextlib.ExitStack() as stack:
        if log is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pennyweight-"))
            log = Path(directory) / "engine.log"
        names = Service.of(deployment).names
        engine = local.start_engine(deployment, log, names=names)
        stack.callback(engine.stop)
        engine.wait_healthy(start_timeout, tick)
        yield Endpoint(engine.base_url, names[0], engine)


def _remote(deployment: Deployment) -> Endpoint:
    """The endpoint of a server that we did not start."""
    settings = deployment.settings
    return Endpoint(settings["base_url"], settings["served_model"], api_key=os.environ.get("OPENAI_API_KEY"))
