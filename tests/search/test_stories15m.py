"""The full-precision reference, stories15M, through the same command. It lies beside the project's data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = os.environ.get("PENNYWEIGHT_DATA")
MODEL = Path(DATA or "/nowhere").parent / "models" / "stories15m"
HEROES = [
    "little girl",
    "big dog",
    "small bird",
    "old man",
    "red car",
    "kind boy",
    "green frog",
    "brave mouse",
    "sad cat",
    "quick fox",
]
PLACES = [
    "in a garden",
    "by the sea",
    "near a forest",
    "in a small house",
    "on a hill",
    "by a river",
    "under a tree",
    "in a town",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.measures,
    pytest.mark.skipif(not MODEL.exists(), reason="needs ../models/stories15m beside PENNYWEIGHT_DATA"),
]


def test_it_is_optimised_against_its_float32_self(tmp_path: Path) -> None:
    stories = tmp_path / "stories.jsonl"
    prompts = [f"Once upon a time, there was a {hero} who lived {place}." for hero in HEROES for place in PLACES]
    rows = [{"id": f"s{i}", "prompt": prompt, "max_tokens": 32} for i, prompt in enumerate(prompts)]
    stories.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = f"{sys.executable} -m pennyweight optimize {MODEL} -w {stories} -o {tmp_path / 'out'}"
    command += " --engines onnxruntime --schemes INT8 --max-concurrency 8 --rounds 2 --json"
    ran = subprocess.run(command.split(), capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert summary["verdict"] == "ACCEPT"
    assert summary["baseline"]["scheme"] == "F32"
    assert summary["quality"]["ci95"][1] <= 0.02
