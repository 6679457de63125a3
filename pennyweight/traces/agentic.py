"""Agentic session JSON (callanjfox/kv-cache-tester): one file per session, or a directory of them.

A session's hashes are local to it, so no prefix is shared between sessions. Times are seconds from the session's start;
sub-agent entries, which carry requests of their own, are flattened into the session.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pennyweight.errors import WorkloadError
from pennyweight.workload import PromptShape, Request, Workload


def recognises(head: str) -> bool:
    return head.lstrip().startswith("{") and '"hash_id_scope"' in head


def read(path: Path) -> Workload:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    requests = [request for file in files for request in _session(file)]
    requests.sort(key=lambda r: r.arrival or 0.0)  # sessions run side by side
    return Workload(path.stem, tuple(requests))


def _session(file: Path) -> list[Request]:
    try:
        session = json.loads(file.read_text(encoding="utf-8-sig"))
        entries = session["requests"]
        block_size = int(session["block_size"])
    except json.JSONDecodeError as error:
        raise WorkloadError(f"{file}, line {error.lineno}: no JSON ({error.msg}).") from None
    except (KeyError, TypeError, ValueError) as error:
        raise WorkloadError(f"{file} is no agentic session ({error!r}): requests and block_size are needed.") from None
    if not isinstance(entries, list):
        raise WorkloadError(f"{file} is no agentic session: requests is no list.")
    name = str(session.get("id", file.stem))
    flat = enumerate(_flat(file, entries), start=1)
    return [_request(file, name, number, entry, block_size) for number, entry in flat]


def _flat(file: Path, entries: list[Any]) -> list[dict[str, Any]]:
    flat: list[dict[str, Any]] = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("requests", []), list):
            raise WorkloadError(f"{file}, request {len(flat) + 1}: an object is expected.")
        flat.extend(_flat(file, entry["requests"]) if "requests" in entry else [entry])
    return flat


def _request(file: Path, name: str, number: int, entry: dict[str, Any], block_size: int) -> Request:
    try:
        time, prompt, answer = float(entry["t"]), int(entry["in"]), int(entry["out"])
        hashes = tuple(f"{name}:{block}" for block in entry.get("hash_ids", ()))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise WorkloadError(
            f"{file}, request {number}: t, in and out are needed as numbers, hash_ids as a list."
        ) from None
    if not 0 <= time < float("inf") or prompt < 1 or answer < 0:
        raise WorkloadError(f"{file}, request {number}: t, in or out is negative, zero or not finite.")
    shape = PromptShape(prompt, hashes, block_size)
    return Request(f"{name}-{number}", name, max(1, answer), shape=shape, arrival=time)
