"""Gateways of a test's own, one for a module, and a Redis server."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pennyweight import formats
from pennyweight.deployment import Deployment
from pennyweight.processes import free_port
from tests.serve.gateway.gateways import Running, Start, running


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path) -> Callable[..., Path]:
    """Directories of scripted deployments."""

    def make(**settings: Any) -> Path:
        directory = tmp_path_factory.mktemp("deployment")
        formats.write_deployment(directory, Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", settings))
        return directory

    return make


@pytest.fixture
def start(deployed: Callable[..., Path]) -> Iterator[Start]:
    """A gateway of this test's own: words for the command line, settings for the engine."""
    with contextlib.ExitStack() as stack:
        yield lambda *words, **settings: stack.enter_context(running(deployed(**settings), *words))


@pytest.fixture(scope="module")
def gateway(deployed: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests of a module that leave it as it was."""
    cache = tmp_path_factory.mktemp("cache") / "answers.db"
    with running(deployed(max_num_seqs=8, step_ms=2.0), "--cache", cache) as made:
        yield made


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port("127.0.0.1")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        time.sleep(0.5)
        yield f"redis://127.0.0.1:{port}/0"
        running.terminate()
