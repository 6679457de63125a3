"""Study: the append-only record of a search, from which the search resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pennyweight.deployment import Deployment
from pennyweight.measurement import Comparison, Measurement


class Stage(StrEnum):
    """What a trial was for; search/loop.py describes the stages in their order."""

    BASELINE = "baseline"
    SCREEN = "screen"
    SKIP = "skip"  # not built, and why
    TUNE = "tune"
    FINAL = "final"
    PROVE = "prove"
    SPECULATE = "speculate"
    SWEEP = "sweep"
    COMPARE = "compare"


@dataclass(frozen=True)
class Trial:
    """One step that was tried on one deployment. One of `measurement`, `comparison` and `failure` is set; `seconds` is
    what the step cost, building included."""

    stage: Stage
    deployment: Deployment
    measurement: Measurement | None = None
    predicted: Measurement | None = None
    comparison: Comparison | None = None
    failure: str | None = None
    seconds: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Stage, str]:
        return (self.stage, self.deployment.id)


@dataclass
class Study:
    """The trials so far. `question` is what they answer. A subclass (journal.py) makes appending durable."""

    question: Mapping[str, Any] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)

    def find(self, stage: Stage, deployment_id: str) -> Trial | None:
        """The last trial of this stage for this deployment, if there is one."""
        return next((t for t in reversed(self.trials) if t.key == (stage, deployment_id)), None)

    def of_stage(self, *stages: Stage) -> list[Trial]:
        return [trial for trial in self.trials if trial.stage in stages]

    def append(self, trial: Trial) -> Trial:
        self.trials.append(trial)
        return trial
