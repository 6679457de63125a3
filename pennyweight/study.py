"""Study: the append-only record of a search, from which the search resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyweight.deployment import Deployment
from pennyweight.errors import StorageError
from pennyweight.measurement import Measurement


@dataclass(frozen=True)
class Trial:
    """One step that was tried on one deployment: `stage` is screen, measure, prove or compare.

    Either `measurement` or `failure` is set; `seconds` is what the step cost, building included.
    """

    stage: str
    deployment: Deployment
    measurement: Measurement | None = None
    predicted: Measurement | None = None
    failure: str | None = None
    seconds: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return (self.stage, self.deployment.id)

    def as_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "deployment": self.deployment.as_json(),
            "measurement": self.measurement.as_json() if self.measurement else None,
            "predicted": self.predicted.as_json() if self.predicted else None,
            "failure": self.failure,
            "seconds": self.seconds,
            "notes": dict(self.notes),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Trial:
        def measurement(name: str) -> Measurement | None:
            return Measurement.from_json(value[name]) if value.get(name) else None

        return Trial(
            value["stage"],
            Deployment.from_json(value["deployment"]),
            measurement("measurement"),
            measurement("predicted"),
            value["failure"],
            value["seconds"],
            value["notes"],
        )


class Study:
    """A JSON-lines file: a header with the question, then trials. Appending is durable before it returns."""

    def __init__(self, path: Path, question: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path = path
        self.question = dict(question)
        self.trials: list[Trial] = []
        if path.exists() and resume:
            self._read()
        else:
            self._write_line({"question": self.question}, mode="w")

    def find(self, stage: str, deployment_id: str) -> Trial | None:
        """The last trial of this stage for this deployment, if there is one."""
        return next((t for t in reversed(self.trials) if t.key == (stage, deployment_id)), None)

    def append(self, trial: Trial) -> Trial:
        self._write_line(trial.as_json(), mode="a")
        self.trials.append(trial)
        return trial

    def _write_line(self, value: Mapping[str, Any], mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(json.dumps(value, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written ({error.strerror}): free some space.") from error

    def _read(self) -> None:
        lines = self.path.read_bytes().split(b"\n")
        whole = lines[:-1]  # what follows the last newline was cut off while it was written
        try:
            question = dict(json.loads(whole[0])["question"])
            trials = [Trial.from_json(json.loads(line)) for line in whole[1:]]
        except (IndexError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self.path} is no study ({error!r}): start again without --resume.") from error
        if question != self.question:
            names = sorted({*self.question, *question})
            changed = [name for name in names if self.question.get(name) != question.get(name)]
            raise StorageError(
                f"{self.path} answers another question (different: {', '.join(changed)}): "
                "repeat the first command, or start again without --resume."
            )
        self.trials = trials
        if lines[-1]:
            self.path.write_bytes(b"\n".join(whole) + b"\n")
