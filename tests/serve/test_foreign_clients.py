"""Clients that cannot live in our environment: of node, and instructor, which wants an older openai. `make clients`
installs them; without them these tests are skipped."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pennyweight import checkpoint, formats
from pennyweight.deployment import Deployment
from tests.serve.gateway.gateways import Running, running

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "clients"
INSTALLED = Path(__file__).parents[2] / ".clients"


@pytest.fixture(scope="module")
def gateway(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("served")
    model = checkpoint.open_model(str(tiny_checkpoint))
    formats.write_deployment(
        place, Deployment("transformers", str(model.path), model.id, model.scheme, {"max_num_seqs": 4})
    )
    with running(place, "--served-model-name", "model") as made:
        yield made


def read_by(script: str, gateway: Running) -> dict[str, Any]:
    """What a client prints. Node looks for packages beside the script: it runs as a copy there."""
    of_node = script.endswith(".mjs")
    needed = INSTALLED / ("node_modules" if of_node else "python/bin/python")
    if not needed.exists():
        pytest.skip(f"{needed} is not there: `make clients` installs it.")
    program = SCRIPTS / script
    if of_node:
        program = INSTALLED / script
        program.write_text((SCRIPTS / script).read_text())
    command = ["node" if of_node else str(needed), str(program), f"{gateway.base_url}/v1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_openais_client_for_node(gateway: Running) -> None:
    read = read_by("openai_client.mjs", gateway)
    assert read["whole"] == read["streamed"]
    assert json.loads(read["whole"])["place"] in ("north", "south")
    assert read["usage"]["completion_tokens"] == 8 and read["events"] >= 2
    assert read["text"] and read["output"]
    assert read["refused"].startswith("BadRequestError: 400") and "temperature" in read["refused"]


def test_the_ai_sdk(gateway: Running) -> None:
    read = read_by("ai_sdk.mjs", gateway)
    assert read["text"] and read["text"] == read["streamed"]
    assert read["usage"]["outputTokens"] == 8 and read["finish"] == "length"
    [call] = read["calls"]
    assert call["name"] == "weather" and call["input"]["place"] in ("north", "south")
    assert read["object"]["place"] in ("north", "south")


def test_instructor(gateway: Running) -> None:
    assert set(read_by("instructor_client.py", gateway)) == {"TOOLS", "JSON_SCHEMA"}
