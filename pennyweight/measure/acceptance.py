"""How far a draft model guesses ahead: the length that speculative decoding accepts (Leviathan et al. 2022,
arxiv.org/abs/2211.17192), measured by teacher-forcing the draft over the target's own greedy answers.

Greedy speculation accepts a guess exactly where the draft's first choice is the target's token, so the answers say
everything: no speculating engine is needed to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pennyweight.evidence import Reference
from pennyweight.measure import quality
from pennyweight.measure.replay import Progress, unwatched
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.serve.opening import Endpoint


def accepted_lengths(agreed: Sequence[bool], guesses: int) -> list[int]:
    """Tokens that each step of the target yields: the guesses accepted in a row, and the target's own next one."""
    lengths, place = [], 0
    while place < len(agreed):
        taken = 0
        while taken < guesses and place + taken < len(agreed) and agreed[place + taken]:
            taken += 1
        step = min(taken + 1, len(agreed) - place)
        lengths.append(step)
        place += step
    return lengths


def measure_acceptance(
    endpoint: Endpoint, references: Iterable[Reference], guesses: int, progress: Progress = unwatched
) -> Measurement:
    """Mean accepted length and the share of tokens guessed right, of the draft served at `endpoint`."""
    lengths: list[int] = []
    shares: list[float] = []
    for agreed in quality.agreements(endpoint, [r for r in references if r.answer], progress):
        lengths += accepted_lengths(agreed, guesses)
        shares.append(sum(agreed) / len(agreed))
    quantities = [
        Quantity("acceptance_length", sum(lengths) / max(len(lengths), 1), "tokens/step", "higher"),
        Quantity("acceptance_rate", sum(shares) / max(len(shares), 1), "1", "higher", tuple(shares)),
    ]
    return collect(endpoint.base_url, quantities, {"guesses": guesses, "answers": len(shares)})
