"""Workload files in, `Workload` out. One module per format; `load` uses the first that recognises the file."""

from __future__ import annotations

import codecs
import inspect
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path

from pennyweight.errors import UsageError, WorkloadError
from pennyweight.paths import absolute
from pennyweight.workload import Workload

BUILTIN = ("chat", "extract", "tasks", "support")
# Tried in this order: the specific ones first, our own JSONL last.
FORMATS = ("azure", "burstgpt", "mooncake", "openai_batch", "agentic", "sharegpt", "pennyweight_jsonl")


def load(
    name_or_path: str,
    trace_format: str | None = None,
    *,
    count_tokens: Callable[[str], int] | None = None,
    skip_invalid: Callable[[str], None] | None = None,
) -> Workload:
    """A built-in workload by name, or a file (or a directory of agentic session files) by path. `count_tokens` measures
    recorded answers, where a format has these and not their lengths. A row that cannot be read is a fault, or with
    `skip_invalid`, which is called with it, left out."""
    if name_or_path in BUILTIN:
        with resources.as_file(resources.files("pennyweight.traces") / "builtin" / f"{name_or_path}.jsonl") as path:
            return import_module("pennyweight.traces.pennyweight_jsonl").read(path, name=name_or_path)  # type: ignore[no-any-return]
    path = absolute(name_or_path)
    if not path.exists():
        raise WorkloadError(
            f"Workload {name_or_path!r} is neither a file nor built in: use {', '.join(BUILTIN)} or a path."
        )
    if trace_format is not None and trace_format not in FORMATS:
        raise UsageError(f"Trace format {trace_format!r} is unknown: use one of {', '.join(FORMATS)}.")
    head = _head(path)
    for candidate in [trace_format] if trace_format else FORMATS:
        reader = import_module(f"pennyweight.traces.{candidate}")
        if path.is_dir() and candidate != "agentic":
            continue  # the only format that is a directory
        if trace_format or reader.recognises(head):
            try:
                known = {"count_tokens": count_tokens, "skip_invalid": skip_invalid}
                takes = inspect.signature(reader.read).parameters
                if skip_invalid is not None and "skip_invalid" not in takes:
                    raise UsageError(f"--skip-invalid does not read {candidate}, whose rows depend on each other.")
                return reader.read(path, **{k: v for k, v in known.items() if k in takes})  # type: ignore[no-any-return]
            except UnicodeDecodeError as error:
                raise WorkloadError(f"{path} is not UTF-8 text ({error.reason}): convert it first.") from None
    if path.is_dir():
        raise WorkloadError(f"{path} is a directory, and not of agentic sessions: give a workload file.")
    formats = f"use one of {', '.join(FORMATS)}, with --trace-format"
    if head.startswith("["):
        raise WorkloadError(f"{path} is a JSON array, and not ShareGPT's: write one object a line, or {formats}.")
    raise WorkloadError(f"{path} is in no known format: {formats}.")


def _head(path: Path) -> str:
    """The first characters of the file, or of the first JSON file of a directory."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise WorkloadError(f"{path} is a directory without .json session files: give a workload file.")
        path = files[0]
    with path.open("rb") as file:
        first = file.read(4096)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise WorkloadError(f"{path} is UTF-16 text: save it as UTF-8 first.")
    head = first.decode("utf-8", errors="replace")
    head = head.lstrip("\ufeff")
    if not head.strip():
        raise WorkloadError(f"{path} is empty: give a file with at least one request.")
    return head.lstrip()
