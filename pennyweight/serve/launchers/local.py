"""Processes on this machine: an engine of a deployment, and a gateway in front of a service."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pennyweight import codec, engines
from pennyweight.deployment import Deployment
from pennyweight.engines.base import Launch
from pennyweight.errors import StorageError
from pennyweight.processes import free_port, refuse_taken_port
from pennyweight.serve import process
from pennyweight.serve.gateway.settings import GatewaySettings
from pennyweight.serve.process import ServerProcess
from pennyweight.service import Service

HOST = "127.0.0.1"


def start_engine(
    deployment: Deployment, log: Path, *, names: Sequence[str], host: str = HOST, port: int = 0
) -> ServerProcess:
    """Launch the engine of this deployment, which answers to these model names. Settings are checked here, before a
    process is started. Raises `EngineMissing`, `EngineRefused` or `StorageError`."""
    engines.require(deployment.engine)
    engine = engines.make(deployment.engine, deployment.settings)
    if not Path(deployment.model_path).is_dir():
        raise StorageError(f"{deployment.model_path} is gone: build the deployment again.")
    port = port or free_port(host)
    refuse_taken_port(host, port)
    launched = engine.launch(Path(deployment.model_path), host, port, names)
    launch = watched(launched) if launched else _hosted(deployment, names, host, port)
    return process.launch(
        deployment.engine, launch.arguments, log=log, host=host, port=port, environment=launch.environment
    )


def start_gateway(service: Service, settings: GatewaySettings, logs: Path) -> ServerProcess:
    """Launch a gateway, which starts the service's engines. It ends with this process."""
    logs.mkdir(parents=True, exist_ok=True)
    description = logs / "gateway.json"
    description.write_text(json.dumps({"service": codec.plain(service), "settings": codec.plain(settings)}))
    command = (
        sys.executable,
        "-m",
        "pennyweight.serve.gateway",
        "--description",
        str(description),
        "--parent",
        str(os.getpid()),
    )
    return process.launch(
        service.label, command, log=logs / "gateway.log", host=settings.host, port=settings.port, environment={}
    )


def _hosted(deployment: Deployment, names: Sequence[str], host: str, port: int) -> Launch:
    """Our own worker, for engines without the OpenAI API."""
    description = {**codec.plain(deployment), "names": list(names)}
    arguments = ("--description", json.dumps(description), "--host", host, "--port", str(port))
    return Launch((sys.executable, "-m", "pennyweight.worker", *arguments, "--parent", str(os.getpid())))


def watched(launch: Launch) -> Launch:
    """The launch under watchdog.py, for a server that would outlive this process and may start others."""
    watching = (sys.executable, "-m", "pennyweight.serve.watchdog", str(os.getpid()))
    return replace(launch, arguments=(*watching, *launch.arguments))
