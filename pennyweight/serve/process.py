"""An engine process: start it, wait until it is healthy, watch what it uses, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from pennyweight import engines
from pennyweight.deployment import Deployment
from pennyweight.engines.base import Launch
from pennyweight.errors import EngineError, StorageError
from pennyweight.processes import free_port, refuse_taken_port

# Runtimes report home or look for updates unless they are told not to.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "CI": "true",  # what keeps `import openvino` from reporting itself
}
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of our loopback
STOP_SECONDS = 10.0
KERNEL_SECONDS = 120.0  # some start the model once more to tell
LOG_LINES = 12


@dataclass
class EngineProcess:
    """A running worker. `base_url` ends before /v1."""

    deployment: Deployment
    host: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]
    peak_bytes: int = field(default=0)

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self) -> str:
        """The end of the log, on one line, for an error message."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]
        except OSError:
            return ""
        return " | ".join(line.strip() for line in lines if line.strip())

    def wait_healthy(self, timeout: float, tick: Callable[[], None] = lambda: None) -> None:
        """Return once /health answers; a process that ends or stays silent becomes an `EngineError`."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not self.alive:
                raise EngineError(self._death())
            if self._healthy():
                return
            tick()
            time.sleep(0.05)
        self.stop()
        raise EngineError(
            f"{self.deployment.engine} did not get ready within {timeout:.0f} s: see {self.log}, "
            "or give it longer with --start-timeout."
        )

    def _healthy(self) -> bool:
        try:
            with LOCAL.open(f"{self.base_url}/health", timeout=2) as answer:
                return int(answer.status) == 200
        except (urllib.error.URLError, OSError):
            return False

    def kernels(self) -> tuple[str, ...]:
        """What multiplies its matrices, where its face tells it."""
        try:
            with LOCAL.open(f"{self.base_url}/kernels", timeout=KERNEL_SECONDS) as answer:
                return tuple(json.load(answer)["kernels"])
        except (urllib.error.URLError, OSError, ValueError, KeyError):
            return ()

    def _death(self) -> str:
        code = self.process.returncode
        words = self.last_words()
        marker = "pennyweight: "
        if marker in words:  # the worker said it in a sentence of its own
            return words.rsplit(marker, 1)[1]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = " (often: out of memory)" if code == -signal.SIGKILL else ""
        return f"{self.deployment.engine} {how}{hint}: {words or 'it wrote nothing'} (log: {self.log})."

    def usage(self) -> tuple[int, float]:
        """Resident bytes of the process tree now, and its CPU seconds so far. The peak is kept in `peak_bytes`."""
        resident, seconds = 0, 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    resident += process.memory_info().rss
                    times = process.cpu_times()
                    seconds += times.user + times.system
        self.peak_bytes = max(self.peak_bytes, resident)
        return resident, seconds

    def stop(self) -> None:
        """Ask, then insist, and leave none of its processes behind. Safe to call twice."""
        if self.alive:
            _signal_group(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        _signal_group(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)


def start(deployment: Deployment, log: Path, host: str = "127.0.0.1", port: int = 0) -> EngineProcess:
    """Launch a worker for this deployment. Settings are checked here, before a process is spent."""
    engines.require(deployment.engine)
    engine = engines.make(deployment.engine, deployment.settings)
    if not Path(deployment.model_path).is_dir():
        raise StorageError(f"{deployment.model_path} is gone: build the deployment again.")
    port = port or free_port(host)
    refuse_taken_port(host, port)
    log.parent.mkdir(parents=True, exist_ok=True)
    launched = engine.launch(Path(deployment.model_path), host, port, deployment.served_name)
    launch = watched(launched) if launched else hosted(deployment, host, port)
    with log.open("wb") as file:
        process = subprocess.Popen(
            launch.arguments,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **QUIET, **launch.environment},
        )
    return EngineProcess(deployment, host, port, log, process)


def hosted(deployment: Deployment, host: str, port: int) -> Launch:
    """Our own worker, for engines without the OpenAI API."""
    return Launch(
        (
            sys.executable,
            "-m",
            "pennyweight.worker",
            "--spec",
            json.dumps(deployment.as_json()),
            "--host",
            host,
            "--port",
            str(port),
            "--parent",
            str(os.getpid()),
        )
    )


def watched(launch: Launch) -> Launch:
    """A server that does not end with us by itself, and may have started others."""
    watching = (sys.executable, "-m", "pennyweight.serve.watchdog", str(os.getpid()))
    return replace(launch, arguments=(*watching, *launch.arguments))


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
