"""A server process, an engine or a gateway: wait until it is healthy, watch what it uses, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pennyweight.errors import EngineError
from pennyweight.processes import describe_exit

# Environment variables that turn off telemetry and update checks of runtimes.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "CI": "true",  # turns off the telemetry of `import openvino`
}
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of our loopback
STOP_SECONDS = 10.0
KERNEL_SECONDS = 120.0  # some engines load the model again to report them
LOG_LINES = 12
Environment = Mapping[str, str]


@dataclass
class ServerProcess:
    """A running server, and whatever it started. `what` names it in messages; `base_url` ends before /v1."""

    what: str
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

    def log_tail(self) -> str:
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
                raise EngineError(self.exit_message())
            if self._healthy():
                return
            tick()
            time.sleep(0.05)
        self.stop()
        raise EngineError(
            f"{self.what} did not get ready within {timeout:.0f} s: see {self.log}, "
            "or give it longer with --start-timeout."
        )

    def _healthy(self) -> bool:
        try:
            with LOCAL.open(f"{self.base_url}/health", timeout=2) as answer:
                return int(answer.status) == 200
        except (urllib.error.URLError, OSError):
            return False

    def kernels(self) -> tuple[str, ...]:
        """The matrix-multiplication kernels, if its API reports them."""
        try:
            with LOCAL.open(f"{self.base_url}/kernels", timeout=KERNEL_SECONDS) as answer:
                return tuple(json.load(answer)["kernels"])
        except (urllib.error.URLError, OSError, ValueError, KeyError):
            return ()

    def exit_message(self) -> str:
        code = self.process.returncode
        words = self.log_tail()
        marker = "pennyweight: "
        if marker in words:  # the worker wrote a complete error message
            return words.rsplit(marker, 1)[1]
        return f"{self.what} ended{describe_exit(code)}: {words or 'it wrote nothing'} (log: {self.log})."

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
        """SIGTERM, then SIGKILL for the whole process group. Safe to call twice."""
        if self.alive:
            _signal_group(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        _signal_group(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)


def launch(
    what: str, command: Sequence[str], *, log: Path, host: str, port: int, environment: Environment
) -> ServerProcess:
    """Start a command that will listen on this port, its output into `log`, in a session of its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **QUIET, **environment},
        )
    return ServerProcess(what, host, port, log, process)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
