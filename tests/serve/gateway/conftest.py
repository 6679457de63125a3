"""Gateways of a test's own, and one for a module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pennyweight import formats
from pennyweight.deployment import Deployment
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
