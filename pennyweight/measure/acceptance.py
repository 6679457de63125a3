"""Acceptance length of a draft model in speculative decoding (Leviathan et al. 2022, arxiv.org/abs/2211.17192),
measured by teacher-forcing the draft over the target's greedy answers.

Greedy speculative decoding accepts a draft token exactly where the draft's first choice is the target's token, so no
engine with speculative decoding is needed to measure it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pennyweight.evidence import Reference
from pennyweight.measure.proof import proof
from pennyweight.measure.replay import Progress, no_progress
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.serve.opening import Endpoint


def accepted_lengths(agreed: Sequence[bool], num_draft_tokens: int) -> list[int]:
    """Tokens per step of the target: the draft tokens accepted in a row, and the target's own next token."""
    lengths, place = [], 0
    while place < len(agreed):
        taken = 0
        while taken < num_draft_tokens and place + taken < len(agreed) and agreed[place + taken]:
            taken += 1
        step = min(taken + 1, len(agreed) - place)
        lengths.append(step)
        place += step
    return lengths


def measure_acceptance(
    endpoint: Endpoint, references: Iterable[Reference], num_draft_tokens: int, progress: Progress = no_progress
) -> Measurement:
    """Mean acceptance length and acceptance rate of the draft served at `endpoint`."""
    lengths: list[int] = []
    shares: list[float] = []
    for agreed in proof.agreements(endpoint, [r for r in references if r.answer], progress):
        lengths += accepted_lengths(agreed, num_draft_tokens)
        shares.append(sum(agreed) / len(agreed))
    quantities = [
        Quantity("acceptance_length", sum(lengths) / max(len(lengths), 1), "tokens/step", "higher"),
        Quantity("acceptance_rate", sum(shares) / max(len(shares), 1), "1", "higher", tuple(shares)),
    ]
    return collect(endpoint.base_url, quantities, {"num_draft_tokens": num_draft_tokens, "answers": len(shares)})
