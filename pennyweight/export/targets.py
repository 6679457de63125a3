"""Engines that we write for and do not serve with: a checkpoint that they load as it is and the command that serves it,
or files of their own, checked by their own runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyweight.checkpoint import link_or_copy
from pennyweight.errors import EngineError, EngineRefused, UsageError
from pennyweight.export import litert
from pennyweight.install.environments import Recipe
from pennyweight.model import Model

CHECKPOINT = "checkpoint"
SCRIPT = "serve.sh"
NOT_RUN = "exported, not run on this machine"
CHECKED = "exported and checked by its own runtime, not served"


@dataclass(frozen=True)
class Export:
    """`command` takes the model's context length and the port, and is run beside the checkpoint. The flags
    are taken from the documentation that `source` names. `convert` writes into a directory and returns the results of
    its check; it needs the environment of `recipe`."""

    name: str
    schemes: tuple[str, ...]
    source: str
    command: Callable[[int, int], str] | None = None
    convert: Callable[[Model, Path], Mapping[str, Any]] | None = None
    recipe: Recipe | None = None

    @property
    def state(self) -> str:
        return NOT_RUN if self.convert is None else CHECKED


@dataclass(frozen=True)
class Exported:
    """The result of an export: its files, and whether it was run."""

    path: Path
    state: str
    checked: Mapping[str, Any] = field(default_factory=dict)


EXPORTS = {
    made.name: made
    for made in (
        Export(
            "sglang",
            ("BF16", "F16", "F32"),
            "docs.sglang.ai/advanced_features/server_arguments.html",
            lambda length, port: (
                f"python -m sglang.launch_server --model-path {CHECKPOINT} --host 127.0.0.1 "
                f"--port {port} --context-length {length}"
            ),
        ),
        Export(
            "tensorrt-llm",
            ("BF16", "F16"),
            "nvidia.github.io/TensorRT-LLM/commands/trtllm-serve",
            lambda length, port: f"trtllm-serve {CHECKPOINT} --host 127.0.0.1 --port {port} --max_seq_len {length}",
        ),
        Export(
            litert.NAME,
            ("BF16", "F16", "F32"),
            "ai.google.dev/edge/litert",
            convert=litert.convert,
            recipe=litert.RECIPE,
        ),
    )
}


def export(model: Model, name: str, directory: Path, port: int) -> Exported:
    """Write the checkpoint and the script, or the engine's own files."""
    if name not in EXPORTS:
        raise UsageError(f"Nothing is exported for {name!r}: use {', '.join(EXPORTS)}.")
    made = EXPORTS[name]
    if model.format != "huggingface" or model.scheme not in made.schemes:
        raise EngineRefused(
            f"{name} does not load {model.format} {model.scheme}: export a Hugging Face directory in "
            f"{', '.join(made.schemes)}."
        )
    if made.convert is not None:
        directory.mkdir(parents=True)
        try:
            return Exported(directory, CHECKED, made.convert(model, directory))
        except EngineError:
            shutil.rmtree(directory)
            raise
    assert made.command is not None
    shutil.copytree(model.path, directory / CHECKPOINT, copy_function=_weights_by_link)
    script = directory / SCRIPT
    command = made.command(model.context_length, port)
    script.write_text(f'#!/bin/sh\n# {NOT_RUN}. Flags: {made.source}\ncd "$(dirname "$0")" && exec {command}\n')
    script.chmod(0o755)
    return Exported(script, NOT_RUN)


def _weights_by_link(source: str, target: str) -> None:
    """Weights are linked; files that a user may edit are copied, because editing a link changes the original."""
    (link_or_copy if source.endswith(".safetensors") else shutil.copyfile)(source, target)
