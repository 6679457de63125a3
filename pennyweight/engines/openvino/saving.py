"""A GGUF in OpenVINO's own form, made in a process of its own: making it holds Python's interpreter lock for seconds,
and an engine that serves meanwhile would stand still.

python -m pennyweight.engines.openvino.saving GGUF DIRECTORY PROPERTIES, which are JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pennyweight.errors import EngineError

GRAPH = "openvino_model.xml"


def saved_graph(file: Path, directory: Path, properties: Mapping[str, Any], *, tokenizer: bool = False) -> Path:
    """The graph's file; with the tokenizer beside it where asked for. Raises `EngineError`."""
    command = [sys.executable, "-m", __name__, str(file), str(directory), json.dumps(dict(properties))]
    done = subprocess.run(
        [*command, *(["tokenizer"] if tokenizer else [])], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"OpenVINO cannot write {file.name} in its own form: {last[:300]}.")
    return directory / GRAPH


def main(file: str, directory: str, properties: str, *more: str) -> None:
    """GenAI writes its form beside the input file, so it reads a link elsewhere."""
    import openvino_genai

    link = Path(directory) / "model.gguf"
    link.symlink_to(file)
    small = openvino_genai.SchedulerConfig()
    small.num_kv_blocks = 16
    saving = {**json.loads(properties), "enable_save_ov_model": True}
    openvino_genai.ContinuousBatchingPipeline(str(link), small, "CPU", saving)
    if more:
        openvino_genai.Tokenizer(str(link), enable_save_ov_model=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
