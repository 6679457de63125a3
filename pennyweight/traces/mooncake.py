"""The Mooncake trace: JSONL with timestamp (ms), input_length, output_length and hash_ids of 512-token blocks."""

from __future__ import annotations

from pathlib import Path

from pennyweight.traces.lines import Line, checked, json_lines
from pennyweight.workload import PromptShape, Request, Workload

BLOCK_SIZE = 512


def recognises(head: str) -> bool:
    first = head.splitlines()[0]
    return '"hash_ids"' in first and '"input_length"' in first


def read(path: Path) -> Workload:
    requests = [(line.number, _request(line)) for line in json_lines(path)]
    return Workload(path.stem, checked(path, requests))


def _request(line: Line) -> Request:
    time = line.value.get("timestamp")
    if not isinstance(time, int | float):
        raise line.fault("timestamp is missing or is no number of milliseconds")
    hashes = line.value.get("hash_ids", [])
    if not isinstance(hashes, list):
        raise line.fault("hash_ids is no list")
    shape = PromptShape(line.count("input_length"), tuple(str(h) for h in hashes), BLOCK_SIZE)
    identifier = f"mooncake-{line.number}"
    return Request(identifier, identifier, line.count("output_length"), shape=shape, arrival=time / 1000)
