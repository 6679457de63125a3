"""How right each member's answers are: by labels and forms where requests have them, else by a judge that labels
correct (judging.py), else by agreement with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pennyweight.measure.proof.forms import demands_form
from pennyweight.search.judging import Judging, Pair, labelled_shares, most_of
from pennyweight.search.outcomes import OutcomeMatrix, scored
from pennyweight.search.policies import Labels
from pennyweight.workload import Request, Workload, clusters

Floats = NDArray[np.float64]
JUDGED = "a judge, corrected by labels"
STRENGTHS = ("agreement", JUDGED, "labels and forms", "labels")  # of what answers are judged by


@dataclass
class Scores:
    """`halves` are the tuning and the held-out one; `reference` is the name of the member whose answers count."""

    matrix: OutcomeMatrix
    halves: tuple[Workload, Workload]
    reference: str
    judging: Judging | None = None

    def __post_init__(self) -> None:
        self._shares = [labelled_shares(half.requests) for half in self.halves] if self.judging else []
        self._held_out = {request.id for request in self.halves[1].requests}

    @property
    def name(self) -> str:
        return scores_of(*self.halves, judged=self.judging is not None)

    @property
    def most(self) -> float:
        """That one held-out request can lose."""
        return most_of(self.halves[1].requests) if self.judging else 1.0

    def of(self, name: str, requests: Sequence[Request]) -> Floats:
        """Of requests of one half: in 0..1, but for those of a judge that a label corrects."""
        if self.judging is not None and requests:
            shares = self._shares[requests[0].id in self._held_out]
            return self.judging.scores(name, self.pairs(name, requests), shares)
        return scored(requests, self.matrix.of(name, requests), self.matrix.of(self.reference, requests))

    def mean(self, name: str, requests: Sequence[Request]) -> float | None:
        """Where a judge is asked, of the requests with a label."""
        if self.judging is not None:
            requests = [request for request in requests if request.labelled or demands_form(request)]
        if not requests:
            return None
        against = self.matrix.of(self.reference, requests)
        return float(scored(requests, self.matrix.of(name, requests), against).mean())

    def pairs(self, name: str, requests: Sequence[Request]) -> list[Pair]:
        """Each request with the member's answer and the reference's."""
        answers = (self.matrix.of(member, requests) for member in (name, self.reference))
        return list(zip(requests, *answers, strict=True))

    def labels(self, small: str, large: str, half: Workload) -> Labels:
        units = clusters(half.requests)
        found = [self.of(name, half.requests) for name in (small, large, self.reference)]
        return Labels(found[0], found[1], [units[request.id] for request in half.requests], found[2], self.most)


def scores_of(*halves: Workload, judged: bool) -> str:
    """What answers to these are judged by: one of `STRENGTHS`."""
    requests = [request for half in halves for request in half.requests]
    if all(request.labelled for request in requests):
        return "labels"
    if all(request.labelled or demands_form(request) for request in requests):
        return "labels and forms"
    return JUDGED if judged else "agreement"
