"""Part 2: what the weights lose, by teacher forcing over the reference's answers, the end token included.

`added_nats` is the sum of lost nats over the sum of tokens. It has one side only: a sharpened model can score better
than the reference. `divergence` has none, so sharpening and flattening show there: the Kullback-Leibler divergence of
the candidate from the reference, with all but the likeliest tokens counted as one (which can only make it smaller).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pennyweight.budget import CLIP_MARGINS, Budget
from pennyweight.evidence import Part
from pennyweight.measure.proof.asking import Tops
from pennyweight.measure.proof.decode import lost_in_decoding
from pennyweight.measure.proof.intervals import mean_interval, ratio_interval
from pennyweight.measure.proof.pair import Pair
from pennyweight.measure.proof.part import Row
from pennyweight.measure.proof.units import Units, by_unit
from pennyweight.measurement import Quantity

SMALLEST = 1e-9  # probability


def judge(pairs: Sequence[Pair], units: Units, budget: Budget, error: float) -> list[Row]:
    scored = [pair for pair in pairs if pair.scored is not None and pair.tokens]
    if not scored:
        return []
    bound = budget.clip_nats * units.mean_tokens
    losses = losses_of(scored)
    nats = [loss * pair.tokens for loss, pair in zip(losses, scored, strict=True)]
    clipped = np.clip(by_unit(scored, nats), -bound, bound)
    sizes = by_unit(scored, [float(pair.tokens) for pair in scored])
    value, interval = ratio_interval(clipped, sizes, bound=bound, error=error)
    raw = tuple(round(loss, 6) for loss in losses)
    added = Quantity("added_nats", value, "nats/token", "lower", raw, interval)
    return [
        Row(Part.WEIGHTS, added),
        _scored_nats(scored),
        *_divergence(scored, units, budget, error),
        _agreement(scored, error),
    ]


def losses_of(pairs: Sequence[Pair]) -> list[float]:
    """Nats per token that the candidate loses on each reference's answer: by its weights, and by its decode path.

    A decode path that seems to gain, over all answers, is not credited: some servers report log-probabilities that are
    too high, and these must not hide what the weights lose."""
    scored = [float(np.mean(pair.reference.logprobs) - np.mean(pair.candidate_logprobs)) for pair in pairs]
    decoded = [nats / tokens if tokens else 0.0 for nats, tokens in map(lost_in_decoding, pairs)]
    gained = sum(extra * pair.tokens for extra, pair in zip(decoded, pairs, strict=True)) < 0
    return scored if gained else [a + b for a, b in zip(scored, decoded, strict=True)]


def _scored_nats(scored: Sequence[Pair]) -> Row:
    """Without clipping and without the decode path: as perplexity has it."""
    nats = sum(sum(pair.reference.logprobs) - sum(pair.candidate_logprobs) for pair in scored)
    tokens = sum(pair.tokens for pair in scored)
    return Row(Part.WEIGHTS, Quantity("scored_nats", nats / tokens, "nats/token", "lower"))


def _divergence(scored: Sequence[Pair], units: Units, budget: Budget, error: float) -> list[Row]:
    """Nothing where the references were made by a release that kept no likeliest tokens."""
    found = [(pair, *_divergence_of(pair)) for pair in scored if pair.reference.tops]
    found = [one for one in found if one[2]]
    if not found:
        return []
    kept = [pair for pair, _, _ in found]
    bound = CLIP_MARGINS * budget.divergence_limit * units.mean_tokens
    totals = np.minimum(by_unit(kept, [nats for _, nats, _ in found]), bound)
    counts = by_unit(kept, [float(count) for _, _, count in found])
    value, (low, high) = ratio_interval(totals, counts, bound=bound, error=error)
    interval = max(0.0, low), high
    return [Row(Part.WEIGHTS, Quantity("divergence", value, "nats/token", "lower", interval=interval))]


def _agreement(scored: Sequence[Pair], error: float) -> Row:
    shares = by_unit(scored, [float(sum(pair.agreed)) for pair in scored])
    counts = by_unit(scored, [float(pair.tokens) for pair in scored])
    value, interval = mean_interval(shares / counts, lowest=0.0, highest=1.0, error=error)
    quantity = Quantity("agreement", value, "1", "higher", tuple(np.round(shares / counts, 4)), interval)
    return Row(Part.WEIGHTS, quantity)


def _divergence_of(pair: Pair) -> tuple[float, int]:
    """Sum over the places where both vocabularies have the same tokens, and how many these are."""
    assert pair.scored is not None
    total, count = 0.0, 0
    for ours, span in zip(pair.reference.tops, pair.spans, strict=True):
        if span.stop - span.start == 1:
            total += divergence(ours, pair.scored.tops[span.start])
            count += 1
    return total, count


def divergence(reference: Tops, candidate: Tops) -> float:
    """A lower bound of Kullback and Leibler's, from the tokens that are named: those of both sides one by one, those of
    the reference alone as one, and all others as one. A token that the candidate does not name has at most the
    probability of the least that it names."""
    p = {token: math.exp(logprob) for token, logprob in reference}
    q = {token: math.exp(logprob) for token, logprob in candidate}
    both = p.keys() & q.keys()
    terms = [(p[token], q[token]) for token in both]
    alone = [p[token] for token in p.keys() - both]
    left = max(0.0, 1.0 - sum(b for _, b in terms))
    ours, others = sum(alone), max(0.0, 1.0 - sum(p.values()))
    most = min(left, len(alone) * min(q.values(), default=0.0))
    given = min(most, left * ours / max(ours + others, SMALLEST))  # the split that diverges least
    terms += [(ours, given), (others, left - given)]
    return max(0.0, sum(a * math.log(max(a, SMALLEST) / max(b, SMALLEST)) for a, b in terms if a > 0))
