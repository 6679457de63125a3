"""Evidence for answers to similar questions: what the search for a deployment found of them on its workload."""

from __future__ import annotations

from dataclasses import dataclass, field

from pennyweight.budget import Verdict
from pennyweight.measurement import Comparison
from pennyweight.service import SimilarPolicy


@dataclass(frozen=True)
class SimilarEvidence:
    """Of the held-out half's `requests`, `would_be_hits` had a similar one kept, `would_be_wrong` of them a wrong one.
    From the gate's score `threshold` on, `hits` remain, `wrong` of them wrong, and at most `bound` (a share of the
    hits) are, with the policy's confidence; it is None where no score was proven. `limits` are
    the proof's own parts on all these answers as clients got them. `faster` compares requests a second with the
    service without the stage. `refused` says why it is not served; empty where it is."""

    policy: SimilarPolicy
    requests: int = 0
    would_be_hits: int = 0
    would_be_wrong: int = 0
    threshold: float | None = None
    hits: int = 0
    wrong: int = 0
    bound: float = 1.0
    limits: Verdict = field(default_factory=Verdict)
    faster: Comparison | None = None
    refused: str = ""

    @property
    def served(self) -> bool:
        return not self.refused
