"""Evidence for answers to similar questions: what the search for a deployment found of them on its workload."""

from __future__ import annotations

from dataclasses import dataclass, field

from pennyweight.budget import Verdict
from pennyweight.measurement import Comparison
from pennyweight.service import SimilarPolicy


@dataclass(frozen=True)
class SimilarEvidence:
    """`threshold` is the gate's score that the tuning half chose by `labels` would-be hits, of which `labels_wrong`
    were wrong; None where it chose none. Of the held-out half's `requests`, `hits` were answered from a similar one,
    `wrong` of them wrongly, and at most `bound` (a share of the hits) are, with the policy's confidence. `limits` are
    the proof's own parts on all these answers as clients got them. `faster` compares requests a second with the
    service without the stage. `refused` says why it is not served; empty where it is."""

    policy: SimilarPolicy
    threshold: float | None = None
    labels: int = 0
    labels_wrong: int = 0
    requests: int = 0
    hits: int = 0
    wrong: int = 0
    bound: float = 1.0
    limits: Verdict = field(default_factory=Verdict)
    faster: Comparison | None = None
    refused: str = ""

    @property
    def served(self) -> bool:
        return not self.refused
