"""Deployment -> running endpoint. What is measured is what is served: both come from here."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pennyweight.deployment import Deployment
from pennyweight.serve import process
from pennyweight.serve.catalogue import REMOTE
from pennyweight.serve.process import EngineProcess

__all__ = ["Endpoint", "EngineProcess", "serve"]

START_TIMEOUT = 300.0


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI endpoint. `engine` is None for a server that we did not start, whose insides we cannot watch."""

    base_url: str
    model: str
    engine: EngineProcess | None = None
    api_key: str | None = None

    def kernels(self) -> tuple[str, ...]:
        """What multiplied, as the engine tells it; nothing of servers that do not."""
        return self.engine.kernels() if self.engine is not None else ()


@contextlib.contextmanager
def serve(
    deployment: Deployment,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    log: Path | None = None,
    start_timeout: float = START_TIMEOUT,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Endpoint]:
    """The endpoint of this deployment for as long as the context lasts."""
    if deployment.engine == REMOTE:
        settings = deployment.settings
        key = os.environ.get("OPENAI_API_KEY")
        yield Endpoint(settings["base_url"], settings["served_model"], api_key=key)
        return
    with contextlib.ExitStack() as stack:
        if log is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pennyweight-"))
            log = Path(directory) / "engine.log"
        engine = process.start(deployment, log, host, port)
        stack.callback(engine.stop)
        engine.wait_healthy(start_timeout, tick)
        yield Endpoint(engine.base_url, deployment.served_name, engine)
