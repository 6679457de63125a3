"""`apply`: a technique's result by its recipe, from the cache, or built now in a separate process, because the
libraries that do the work take gigabytes, print as they like and patch each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pennyweight import checkpoint
from pennyweight.errors import ModelError, StorageError, UsageError
from pennyweight.model import Model
from pennyweight.paths import absolute
from pennyweight.techniques.base import Progress, Technique, no_progress

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


def apply(technique: Technique, model: Model, progress: Progress = no_progress) -> Model:
    """The model after the technique, from the cache or built now."""
    model_format, scheme = technique.result_kind(model)
    lineage = model.lineage.then(technique.step())

    def make(directory: Path) -> None:
        _run_job(technique, model.path, directory, progress)

    return checkpoint.build(lineage, model_format, scheme, make)


def _run_job(technique: Technique, source: Path, target: Path, progress: Progress) -> None:
    cls = type(technique)
    if cls.__module__ == "__main__":
        raise UsageError(
            f"The technique {technique.name} is defined in the script that runs: move it into a module, "
            "which the job process can import."
        )
    spec = {
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "settings": technique.__dict__,
        "source": str(source),
        "target": str(target),
        "path": [str(absolute(place)) for place in sys.path],
    }
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
    how = "was killed, often because memory ran out" if code < 0 else f"failed (exit code {code})"
    return ModelError(f"The technique {technique.name} {how}; its last output: {' | '.join(last) or 'none'}.")
