"""Attempts to prove something on one workload: each new one gets a smaller part of the error that the budget allows.

Trying eight candidates, or six seeds, until one passes accepts a broken one far more often than the confidence says.
So attempts are written down beside the artifacts, by workload, and counted across searches.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from pennyweight.budget import Outcome
from pennyweight.deployment import Deployment
from pennyweight.measure.proof.allowance import Allowance
from pennyweight.paths import cache_directory
from pennyweight.workload import Workload

FOLDER = "attempts"


@dataclass
class Attempts:
    """`file` None keeps them in memory only."""

    confidence: float
    held_out: str
    file: Path | None = None
    rows: list[dict[str, object]] = field(default_factory=list)

    @classmethod
    def on(cls, workload: Workload, held_out: Workload, confidence: float, *, baseline: str) -> Attempts:
        """Those on this workload so far, to replace the model of this id: for another one, it is another question."""
        file = cache_directory() / FOLDER / f"{_content(workload)}-{baseline}.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return cls(confidence, _content(held_out), file, [_row(line, number) for number, line in enumerate(lines)])

    def next(self, deployment: Deployment) -> Allowance:
        """What was accepted on this half before may be shown again with the error that it used then; all else is a new
        attempt, a repetition of what was refused too."""
        mine = self._key(deployment)
        for row in self.rows:
            if (row["candidate"], row["held_out"], row["outcome"]) == (mine, self.held_out, Outcome.ACCEPT):
                return Allowance(self.confidence, int(str(row["attempt"])))
        return Allowance(self.confidence, self.following)

    @property
    def following(self) -> int:
        """The number of a new attempt."""
        return 1 + max((int(str(row["attempt"])) for row in self.rows), default=0)

    @property
    def accepted_any(self) -> bool:
        """Was anything accepted on this half, which may be shown again?"""
        return any((row["held_out"], row["outcome"]) == (self.held_out, Outcome.ACCEPT) for row in self.rows)

    def record(self, deployment: Deployment, allowance: Allowance, outcome: Outcome) -> None:
        row: dict[str, object] = {
            "candidate": self._key(deployment),
            "held_out": self.held_out,
            "attempt": allowance.attempt,
            "outcome": str(outcome),
            "time": int(time.time()),
        }
        self.rows.append(row)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")

    @staticmethod
    def _key(deployment: Deployment) -> str:
        return f"{deployment.model_id}/{deployment.id}"


FIRST_QUESTION = 0.9  # of the error: most choices between models are made once


class Questions:
    """Different questions about models that were asked on one workload, in the order in which they came first: each may
    err with its own share. A repetition is the same question, with the same answers' noise: it adds nothing."""

    def __init__(self, workload: Workload, reference: str) -> None:
        self._file = cache_directory() / FOLDER / f"models-{_content(workload)}-{reference}.jsonl"
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        self._known = [line.strip() for line in lines if line.strip()]

    def share(self, question: object) -> float:
        """Of the error. All shares together are 1, however many questions follow."""
        number = self._place(question)
        return FIRST_QUESTION if number == 1 else (1 - FIRST_QUESTION) / (number * (number - 1))

    def _place(self, question: object) -> int:
        mine = _hash(question)
        return 1 + (self._known.index(mine) if mine in self._known else len(self._known))

    def record(self, question: object) -> None:
        if _hash(question) not in self._known:
            self._known.append(_hash(question))
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as out:
                out.write(_hash(question) + "\n")


def _hash(question: object) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]


def _content(workload: Workload) -> str:
    """The same for the same requests in any order."""
    lines = sorted(repr(sorted(request.as_json().items())) for request in workload.requests)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _row(line: str, number: int) -> dict[str, object]:
    """A line that was cut off while it was written was an attempt all the same."""
    try:
        row: dict[str, object] = json.loads(line)
        return row if row.keys() >= {"candidate", "held_out", "attempt", "outcome"} else _lost(number)
    except (ValueError, AttributeError):
        return _lost(number)


def _lost(number: int) -> dict[str, object]:
    return {"candidate": "", "held_out": "", "attempt": number + 1, "outcome": ""}
