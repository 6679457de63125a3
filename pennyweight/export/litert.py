"""LiteRT, TensorFlow's runtime for phones and small machines: converted with litert-torch in an environment of its own,
and checked there by the runtime itself (ai-edge-litert). It has no server, so nothing is served with it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from pennyweight.errors import EngineError, EngineMissing, EngineRefused
from pennyweight.install import environments
from pennyweight.install.environments import Command, Recipe
from pennyweight.model import Model

NAME = "litert"
VERSION = "0.9.4"  # 0.10 imports TensorFlow without declaring it as a dependency
LONGEST = 1280  # tokens of prompt and answer: the cache is allocated whole
CHECK_FILE = "check.json"
MIN_SHARE = 0.5  # share of tokens before the first difference; near ties may differ


def _commands(home: Path) -> list[Command]:
    pip = str(home / "venv" / "bin" / "pip")
    return [
        *environments.fresh_venv(home),
        Command("torch for the CPU", (pip, "install", "torch==2.13.*")),
        Command("litert-torch and the runtime", (pip, "install", f"litert-torch=={VERSION}", "torch==2.13.*")),
    ]


RECIPE = Recipe(f"litert-torch {VERSION}", _commands, minutes=4, disk_bytes=4 * 10**9)


def convert(model: Model, directory: Path) -> dict[str, Any]:
    """Write float32 and 8-bit files with the tokenizer; returns how LiteRT's answers compare with transformers'."""
    python = environments.made(NAME, "venv/bin/python")
    if python is None:
        raise EngineMissing(f"{NAME} needs an environment of its own: run `pw engines install {NAME}`.")
    script = Path(__file__).with_name("litert_convert.py")
    command = [str(python), "-P", str(script), str(model.path), str(directory), str(min(model.context_length, LONGEST))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it wrote nothing"]
        raise EngineError(f"litert-torch cannot convert {model.name} ({last[0][:300]}): export for another engine.")
    checked: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    whole = checked["model.tflite"]
    if whole["tokens_as_transformers"] < MIN_SHARE * whole["of"]:
        raise EngineRefused(
            f"LiteRT's answer differs from transformers' after {whole['tokens_as_transformers']} of {whole['of']} "
            f"tokens of {model.name}: this architecture is not converted correctly."
        )
    (directory / CHECK_FILE).write_text(json.dumps(checked, indent=1) + "\n")
    return checked
