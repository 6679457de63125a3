"""Every example runs as a user would start it: as a script, from another directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pennyweight import checkpoint, formats
from pennyweight.deployment import Deployment

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(example: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, str(EXAMPLES / example), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=cwd)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def directory(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A deployment's directory, as an argument relative to `tmp_path`."""
    served = tmp_path / "served here"
    served.mkdir()
    deployment = Deployment.of(checkpoint.open_model(str(tiny_checkpoint)), "transformers", max_num_seqs=4)
    formats.write_deployment(served, deployment)
    return Path("served here")


def test_every_example_is_run_here() -> None:
    tested = {"library.py", "openai_client.py", "own_workload.py", "own_technique.py", "clip_weights.py"}
    assert {file.name for file in EXAMPLES.glob("*.py")} == tested


@pytest.mark.slow
@pytest.mark.measures
def test_library(tiny_checkpoint: Path, tmp_path: Path) -> None:
    said = run("library.py", tiny_checkpoint, "out here", cwd=tmp_path)
    assert "Chosen: openvino" in said and "Serving" in said
    assert (tmp_path / "out here" / "report.html").exists()


@pytest.mark.slow
def test_openai_client(directory: Path, tmp_path: Path) -> None:
    assert run("openai_client.py", directory, cwd=tmp_path).endswith("\n")


@pytest.mark.slow
@pytest.mark.measures
def test_own_workload(directory: Path, tmp_path: Path) -> None:
    assert "output tokens/s" in run("own_workload.py", directory, cwd=tmp_path)


@pytest.mark.slow
def test_own_technique(tiny_checkpoint: Path, tmp_path: Path) -> None:
    said = run("own_technique.py", tiny_checkpoint, cwd=tmp_path)
    assert "nats a token" in said
