"""The BurstGPT trace: CSV with Timestamp (s), Model, Request tokens, Response tokens, Total tokens, Log Type.

Rows with no response tokens are failed calls in the original log and are left out (HPMLL/BurstGPT).
"""

from __future__ import annotations

from pathlib import Path

from pennyweight.traces.lines import checked, csv_lines
from pennyweight.workload import PromptShape, Request, Workload


def recognises(head: str) -> bool:
    first = head.splitlines()[0]
    return first.startswith("Timestamp,") and "Request tokens" in first and "Response tokens" in first


def read(path: Path) -> Workload:
    requests: list[tuple[int, Request]] = []
    start: float | None = None
    for line in csv_lines(path):
        try:
            time = float(line.text("Timestamp"))
        except ValueError:
            raise line.fault("Timestamp is no number of seconds") from None
        answer = line.count("Response tokens", minimum=0)
        if answer == 0:
            continue
        start = time if start is None else start
        identifier = f"burstgpt-{line.number}"
        session = str(line.value.get("Session ID") or identifier)
        shape = PromptShape(line.count("Request tokens"))
        requests.append((line.number, Request(identifier, session, answer, shape=shape, arrival=time - start)))
    return Workload(path.stem, checked(path, requests))
