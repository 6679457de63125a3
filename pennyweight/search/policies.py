"""Which policy of a mixture is cheapest among those that are certified, and whether one model alone is cheaper still.

Policies are fitted on the tuning half and certified once on the held-out half; all of them share one error. Nothing is
generated here: outcomes.py holds what both models answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import WorkloadError
from pennyweight.measure.certificate import Certificate, Limit, Outcomes, certify, least_kept, thresholds_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Of one request, in any unit, with each model's own answer lengths: dollars, or seconds of the machine."""

    small: float
    large: float


@dataclass(frozen=True)
class Labels:
    """Both models' scores in 0..1 on the requests of one half, and the sessions that these belong to."""

    small: Floats
    large: Floats
    sessions: Sequence[str] = ()


@dataclass(frozen=True)
class Policy:
    """A fitted policy's score of every request of both halves: lower is safer to keep. `answers_first`: the small model
    answers every request before it is decided (a cascade)."""

    name: str
    tuning: Floats
    held_out: Floats
    answers_first: bool = False

    def cost(self, kept: float, costs: Costs) -> float:
        """Per request, at this share of kept requests."""
        asked_small = 1.0 if self.answers_first else kept
        return asked_small * costs.small + (1 - kept) * costs.large


@dataclass(frozen=True)
class Candidate:
    """A policy with its certificate. `cost` is per request at the certified threshold, that of the large model alone
    where nothing is certified."""

    policy: Policy
    certificate: Certificate
    cost: float


@dataclass(frozen=True)
class Choice:
    """All candidates, the cheapest first, and the large model's cost alone. `best` is None where none is cheaper than
    that: the constant wins."""

    candidates: tuple[Candidate, ...]
    large_cost: float

    @property
    def best(self) -> Candidate | None:
        first = self.candidates[0] if self.candidates else None
        return first if first is not None and first.cost < self.large_cost else None


def choose(policies: Sequence[Policy], held_out: Labels, limit: Limit, costs: Costs, *, error: float) -> Choice:
    """Certify each policy on the held-out half with its share of the error. Raises `WorkloadError` where so few
    requests are held out that nothing could be certified, whatever they show."""
    each = error / max(1, len(policies))
    refuse_too_few(held_out, limit, error=each)
    found = []
    for policy in policies:
        outcomes = Outcomes(policy.held_out, held_out.small, held_out.large, held_out.sessions)
        certificate = certify(outcomes, thresholds_of(policy.tuning), limit, error=each)
        chosen = certificate.chosen
        cost = policy.cost(chosen.kept, costs) if chosen else costs.large
        found.append(Candidate(policy, certificate, cost))
    return Choice(tuple(sorted(found, key=lambda candidate: candidate.cost)), costs.large)


def refuse_too_few(labels: Labels, limit: Limit, *, error: float) -> None:
    there = len(set(labels.sessions)) if labels.sessions else len(labels.large)
    needed = least_kept(limit, error)
    if there < needed:
        raise WorkloadError(
            f"A loss of at most {limit.share:.1%} takes {needed} independent labelled requests in the held-out half, "
            f"and {there} are there: label more, or allow a larger loss."
        )


def least_kept_share(costs: Costs, *, answers_first: bool) -> float:
    """The share of requests that must be kept before a policy is cheaper than the large model alone: any, for a router;
    cost(small) / cost(large), for a cascade."""
    return costs.small / costs.large if answers_first else 0.0
