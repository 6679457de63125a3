"""What the OpenAPI page allows, and what it does not, at random: no request makes the gateway fail or hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gateways import Running

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("PENNYWEIGHT_FUZZ_EXAMPLES", "150"))  # of each operation; 1,000 make the full 10,000


def test_no_request_makes_it_fail_or_hang(gateway: Running, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{gateway.base_url}/openapi.json", "--url", gateway.base_url,
        "--checks", "not_a_server_error", "--max-examples", str(EXAMPLES), "--mode", "all", "--request-timeout", "10",
        "--seed", "1", "--phases", "fuzzing", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert gateway.status["running"] == 0
