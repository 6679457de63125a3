"""What a choice between models and mixtures of them rests on: `mixture.json`, beside the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pennyweight.hardware import Hardware
from pennyweight.measurement import Comparison
from pennyweight.mixture import Limit
from pennyweight.workload import Request


class Winner(StrEnum):
    """What answers best for its cost. LARGE: no other model and no mixture is cheaper and holds; the constant wins."""

    MIXTURE = "mixture"
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True)
class MemberResult:
    """A model alone. `score` is its mean on the held-out requests that it was asked; `lost` and `bound` are against the
    reference, where the race came to a bound; `race` is `reference`, `accepted`, `dropped`, `open` or `not raced`."""

    name: str
    label: str
    figures: Mapping[str, float]
    score: float | None = None
    asked: int = 0
    lost: float | None = None
    bound: float | None = None
    race: str = "not raced"


@dataclass(frozen=True)
class PolicyResult:
    """A policy at its certified threshold. `cost` is predicted, in seconds of the machine a request; `curve` has the
    share kept and what is lost at each threshold on the held-out half, to be drawn and for nothing else."""

    name: str
    small: str
    certified: bool
    kept: float
    lost: float
    bound: float
    cost: float
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class JudgeCalibration:
    """What a judgement foresees, fitted on labelled requests of the tuning half: the `reference` scores this on
    average; an answer that is judged as good with probability p loses at_none + slope * (1 - p)."""

    reference: float
    at_none: float
    slope: float


@dataclass(frozen=True)
class MixtureEvidence:
    """`thresholds` are those that were fixed on the tuning half, for `pw calibrate` and `pw verify`; `tuned_on` are
    hashes of that half's prompts, which can certify nothing. `reference_scores` are those of the held-out requests,
    where nothing may be lost against another form of the large model than the one that is served. `faster` compares
    the requests a second of what was chosen with those of the large model alone; `served` are figures of what
    was chosen, through the gateway, and `served_score` its mean score there. `judge` has what judgements foresee of
    each member, where free text without labels was judged."""

    winner: Winner
    chosen: str
    model_name: str
    workload_name: str
    workload_id: str
    limit: Limit
    confidence: float
    scores: str
    streams: int
    members: tuple[MemberResult, ...]
    policies: tuple[PolicyResult, ...]
    held_out: tuple[Request, ...]
    hardware: Hardware
    thresholds: tuple[float, ...] = ()
    tuned_on: tuple[str, ...] = ()
    reference_scores: tuple[float, ...] = ()
    faster: Comparison | None = None
    served: Mapping[str, float] = field(default_factory=dict)
    served_score: float | None = None
    judge: Mapping[str, JudgeCalibration] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
