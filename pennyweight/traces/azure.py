"""The Azure 2023 trace: CSV with TIMESTAMP, ContextTokens, GeneratedTokens (Azure/AzurePublicDataset)."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from pennyweight.traces.lines import Line, checked, csv_lines
from pennyweight.workload import PromptShape, Request, Workload


def recognises(head: str) -> bool:
    return head.startswith("TIMESTAMP,ContextTokens,GeneratedTokens")


def read(path: Path) -> Workload:
    requests: list[tuple[int, Request]] = []
    first: datetime | None = None
    for line in csv_lines(path):
        time = _time(line)
        first = first or time
        shape = PromptShape(line.count("ContextTokens"))
        identifier = f"azure-{line.number}"
        seconds = (time - first).total_seconds()
        request = Request(identifier, identifier, line.count("GeneratedTokens"), shape=shape, arrival=seconds)
        requests.append((line.number, request))
    return Workload(path.stem, checked(path, requests))


def _time(line: Line) -> datetime:
    text = line.text("TIMESTAMP")
    try:
        # Times have seven fractional digits, which datetime does not accept, and in a later version a time zone.
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).replace(tzinfo=None)
    except ValueError:
        raise line.fault(f"{text!r} is not a time stamp") from None
