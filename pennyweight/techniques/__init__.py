"""Techniques: Model -> Model, one a module. A technique's class is its settings; it never asks for a measurement.

`apply` looks the result up by its recipe and builds it, in a process of its own, only if it is not there yet: the
libraries that do the work take gigabytes, print as they like and patch each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar

from pennyweight import checkpoint
from pennyweight.errors import ModelError, StorageError
from pennyweight.model import Model, Step

TECHNIQUES = {
    "depth": "pennyweight.techniques.depth:Depth",
    "dequantize": "pennyweight.techniques.dequantize:Dequantize",
    "distill": "pennyweight.techniques.distill:Distill",
    "key_value_heads": "pennyweight.techniques.key_value_heads:KeyValueHeads",
    "quantize": "pennyweight.techniques.quantize:Quantize",
    "sparsity": "pennyweight.techniques.sparsity:Sparsity",
    "vocabulary": "pennyweight.techniques.vocabulary:Vocabulary",
    "width": "pennyweight.techniques.width:Width",
}
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "AR_DISABLE_DATASET_SUBPROCESS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONUNBUFFERED": "1",
    # Keep freed memory: glibc gives large pieces back at once, and half of a training step went to page faults.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}
COUNTED = re.compile(r"%\|.*?(\d+)/(\d+)(?: ([a-z].*))?")  # how tqdm, and our own jobs, show where they are
LOG_LINES = 8

Progress = Callable[..., None]  # (done, total), and a note where the job has one: loss, tokens/s


@dataclass(frozen=True)
class Technique(ABC):
    """Settings must be JSON values, since the work is done in another process. `packages` enter the recipe."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1  # raise it when the same settings come to give another result

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the result depends on, without what the model says already."""

    @abstractmethod
    def result_kind(self, model: Model) -> tuple[str, str]:
        """(format, scheme) of the result; refuses a model that the technique cannot work on."""

    @abstractmethod
    def build(self, source: Path, target: Path) -> None:
        """Do the work: from the model in `source` into the empty directory `target`. Runs in a job process."""

    def step(self) -> Step:
        made_with = {package: metadata.version(package) for package in self.packages}
        return Step(self.name, {**self.settings(), "revision": self.revision}, made_with)


def digest(texts: Sequence[str]) -> dict[str, Any]:
    """How texts stand in a recipe."""
    return {"sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16], "texts": len(texts)}


def unwatched(done: int, total: int, note: str = "") -> None:
    """Progress that nobody looks at."""
    del done, total, note


def progress(done: int, total: int, note: str = "") -> None:
    """Said in the job process: one line that `COUNTED` reads in the other."""
    print(f"{100 * done // max(total, 1)}%| {done}/{total} {note}", flush=True)


def apply(technique: Technique, model: Model, progress: Progress = unwatched) -> Model:
    """The model after the technique, from the cache or built now."""
    model_format, scheme = technique.result_kind(model)
    lineage = model.lineage.then(technique.step())

    def make(directory: Path) -> None:
        _run_job(technique, model.path, directory, progress)

    return checkpoint.build(lineage, model_format, scheme, make)


def _run_job(technique: Technique, source: Path, target: Path, progress: Progress) -> None:
    spec = {"technique": technique.name, "settings": technique.__dict__, "source": str(source), "target": str(target)}
    with tempfile.TemporaryDirectory(prefix="pennyweight-job-") as directory:
        spec_file = Path(directory) / "job.json"
        spec_file.write_text(json.dumps(spec))
        process = subprocess.Popen(
            [sys.executable, "-m", "pennyweight.techniques", str(spec_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **OFFLINE},
        )
        try:
            last = _follow(process, progress)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0:
        raise _failure(technique, code, last)


def _follow(process: subprocess.Popen[bytes], progress: Progress) -> list[str]:
    """Read the job's output to its end, passing on progress; returns the last lines."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    last: list[str] = []
    rest = ""
    while data := os.read(output, 4096):
        *lines, rest = re.split(r"[\r\n]+", rest + data.decode(errors="replace"))
        for line in filter(str.strip, lines):
            counted = COUNTED.search(line)
            if counted:
                progress(int(counted[1]), int(counted[2]), *([counted[3].strip()] if counted[3] else []))
            else:
                last = [*last, line.strip()][-LOG_LINES:]
    return [*last, rest.strip()] if rest.strip() else last


def _failure(technique: Technique, code: int, last: list[str]) -> Exception:
    marked = [line for line in last if line.startswith("pennyweight: ")]
    if marked:
        return ModelError(marked[-1].removeprefix("pennyweight: "))
    if any("No space left" in line for line in last):
        return StorageError("The disk filled up while a model was built: free some space or set PENNYWEIGHT_CACHE.")
    how = "was killed, often for want of memory" if code < 0 else f"failed (exit code {code})"
    return ModelError(f"The technique {technique.name} {how}; its last words: {' | '.join(last) or 'none'}.")


def from_json(name: str, settings: Mapping[str, Any]) -> Technique:
    module, _, attribute = TECHNIQUES[name].partition(":")
    made: Technique = getattr(import_module(module), attribute)(**settings)
    return made
