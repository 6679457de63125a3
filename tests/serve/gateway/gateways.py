"""For tests: gateways as a user starts them: `pw serve` in a process of its own, on the scripted engine."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil

from pennyweight.processes import free_port

START_SECONDS = 180  # vLLM compiles first


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    directory: Path

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none", **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.base_url}/v1", api_key=key, max_retries=0, timeout=30, **more)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.base_url + path, timeout=5) as answer:
            return json.loads(answer.read())

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/status")
        return found

    def workers(self) -> list[psutil.Process]:
        return family(psutil.Process(self.process.pid), "worker")

    def until(self, happened: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, f"it did not happen within {seconds} s: {self.status}"
            time.sleep(0.05)

    def stop(self, seconds: float = 30.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def family(parent: psutil.Process, word: str) -> list[psutil.Process]:
    """Its living children with this word in their command lines."""
    found = []
    for child in parent.children():
        with contextlib.suppress(psutil.Error):  # it may end meanwhile
            if word in " ".join(child.cmdline()):
                found.append(child)
    return found


Start = Callable[..., Running]


@contextlib.contextmanager
def running(directory: Path, *words: object) -> Iterator[Running]:
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "pennyweight", "serve", str(directory), "--port", str(port), *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], START_SECONDS)[0], "it never said that it serves"
            assert str(port) in process.stdout.readline()
            yield Running(process, port, directory)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
