"""Engines that we write for and do not run: a checkpoint that they load as it is, and the command that serves it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pennyweight.checkpoint import link_or_copy
from pennyweight.errors import EngineRefused, UsageError
from pennyweight.model import Model

CHECKPOINT = "checkpoint"
SCRIPT = "serve.sh"
NOT_RUN = "exported, not run on this machine"


@dataclass(frozen=True)
class Export:
    """`command` takes the model's context length and the port, and is run beside the checkpoint. Spelled as in the
    documentation that `source` names."""

    name: str
    schemes: tuple[str, ...]
    command: Callable[[int, int], str]
    source: str


EXPORTS = {
    made.name: made
    for made in (
        Export(
            "sglang", ("BF16", "F16", "F32"),
            lambda length, port: f"python -m sglang.launch_server --model-path {CHECKPOINT} --host 127.0.0.1 "
                                 f"--port {port} --context-length {length}",
            "docs.sglang.ai/advanced_features/server_arguments.html",
        ),
        Export(
            "tensorrt-llm", ("BF16", "F16"),
            lambda length, port: f"trtllm-serve {CHECKPOINT} --host 127.0.0.1 --port {port} --max_seq_len {length}",
            "nvidia.github.io/TensorRT-LLM/commands/trtllm-serve",
        ),
    )
}  # fmt: skip


def export(model: Model, name: str, directory: Path, port: int) -> Path:
    """Write the checkpoint and the script; returns the script."""
    if name not in EXPORTS:
        raise UsageError(f"Nothing is exported for {name!r}: use {', '.join(EXPORTS)}.")
    made = EXPORTS[name]
    if model.format != "huggingface" or model.scheme not in made.schemes:
        raise EngineRefused(
            f"{name} does not load {model.format} {model.scheme}: export a Hugging Face directory in "
            f"{', '.join(made.schemes)}."
        )
    shutil.copytree(model.path, directory / CHECKPOINT, copy_function=_weights_by_link)
    script = directory / SCRIPT
    command = made.command(model.context_length, port)
    script.write_text(f"#!/bin/sh\n# {NOT_RUN}. Flags: {made.source}\ncd \"$(dirname \"$0\")\" && exec {command}\n")
    script.chmod(0o755)
    return script


def _weights_by_link(source: str, target: str) -> None:
    """What somebody may edit is copied: a link would change the original, too."""
    (link_or_copy if source.endswith(".safetensors") else shutil.copyfile)(source, target)
