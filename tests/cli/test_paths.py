"""Each verb from another directory, with a relative path that has spaces and a letter beyond ASCII in it, and an empty
cache: the README's own command, as people type it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SMALL = ("-w", "../my wörk/requests.jsonl")
FEW = ("--max-tail-share", 0.2, "--max-departures", 0.2)  # what so small a workload can prove


@dataclass
class Stranger:
    """A user's folders: `here` is where commands are typed, the model lies beside it."""

    here: Path
    environment: dict[str, str]

    def pw(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pennyweight", *map(str, words)]
        return subprocess.run(
            command, cwd=self.here, env=self.environment, capture_output=True, text=True, timeout=600, check=False
        )


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Stranger:
    root = tmp_path_factory.mktemp("a stranger's höme")
    shutil.copytree(tiny_checkpoint, root / "my mödel")
    (root / "my wörk").mkdir()
    rows = [
        {
            "id": f"r{n}",
            "messages": [{"role": "user", "content": f"Write down everything that you know about number {n} " * 4}],
            "max_tokens": 8,
        }
        for n in range(48)
    ]
    (root / "my wörk" / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "elsewhere").mkdir()
    return Stranger(root / "elsewhere", {**os.environ, "PENNYWEIGHT_CACHE": "../an empty cäche"})


def test_quantize_to_gguf_and_back(stranger: Stranger) -> None:
    done = stranger.pw("quantize", "../my mödel", "--scheme", "Q8_0", "-o", "quantized ä")
    assert done.returncode == 0, done.stderr
    file = stranger.here / "quantized ä" / "model.gguf"
    shutil.copy(file, stranger.here / "mein modell.gguf")
    again = stranger.pw("quantize", "mein modell.gguf", "--scheme", "F16", "-o", "from gguf")
    assert again.returncode == 0, again.stderr
    assert (stranger.here / "from gguf" / "model.gguf").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("quantize", "../my mödel", "--scheme", "INT8"),
        ("prune", "../my mödel", "--layers", 1, *SMALL),
        ("share-kv-heads", "../my mödel", "--heads", 1),
        ("trim-vocabulary", "../my mödel", "--tokens", 320, *SMALL),
        ("distill", "../my mödel", "--teacher", "../my mödel", "--steps", 1, "--length", 240, *SMALL),
        ("export", "../my mödel", "--engine", "sglang"),
    ],
    ids=lambda words: words[0] + (words[3] if words[0] == "quantize" else ""),
)
def test_techniques_take_a_relative_model(words: tuple[object, ...], stranger: Stranger) -> None:
    done = stranger.pw(*words, "-o", f"out of {words[0]} {words[-1]}".replace("/", " "))
    assert done.returncode == 0, done.stderr


@pytest.mark.measures
def test_optimize_verify_and_the_verbs_that_measure(stranger: Stranger) -> None:
    done = stranger.pw(
        "optimize",
        "../my mödel",
        *SMALL,
        "-o",
        "the rësult",
        "--engines",
        "openvino",
        "--schemes",
        "Q8_0",
        "--max-added-nats",
        5,
        *FEW,
        "--max-concurrency",
        4,
        "--rounds",
        2,
    )
    assert done.returncode == 0, done.stderr
    for words in (
        ("verify", "the rësult"),
        ("bench", "the rësult", *SMALL, "--num-prompts", 8, "--max-concurrency", 2),
        ("bench", "../my mödel", "--engine", "transformers", *SMALL, "--num-prompts", 8, "--max-concurrency", 2),
        ("evaluate", "the rësult", "--against", "the rësult", *SMALL, "--max-added-nats", 5, *FEW),
        ("compare", "the rësult", "the rësult", *SMALL, "--rounds", 2, "--max-concurrency", 2, "--num-prompts", 8),
    ):
        ran = stranger.pw(*words)
        assert ran.returncode == 0, (words, ran.stderr)


def test_nothing_was_left_in_the_current_directory(stranger: Stranger) -> None:
    assert not (stranger.here / "models").exists()
    assert (stranger.here.parent / "an empty cäche" / "models").is_dir()
