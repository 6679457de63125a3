"""What the OpenAPI page allows, and what it does not, at random: no request makes the gateway fail or hang."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serve.gateway.gateways import Running, running

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("PENNYWEIGHT_FUZZ_EXAMPLES", "60"))  # of each of 29 operations; 345 make the full 10,000


def test_no_request_makes_it_fail_or_hang(deployed: Callable[..., Path], tmp_path: Path) -> None:
    words = ("--cache", tmp_path / "answers.db", "--state", tmp_path / "state", "--refusals-per-second", 0)
    with running(deployed(max_num_seqs=8, step_ms=2.0), *words) as gateway:
        fuzz(gateway, tmp_path)
        assert gateway.status["running"] == 0


def fuzz(gateway: Running, directory: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{gateway.base_url}/openapi.json",
        "--url",
        gateway.base_url,
        "--checks",
        "not_a_server_error",
        "--max-examples",
        str(EXAMPLES),
        "--mode",
        "all",
        "--request-timeout",
        "10",
        "--seed",
        "1",
        "--phases",
        "fuzzing",
        "--no-color",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
