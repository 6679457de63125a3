"""Part 3: what decoding loses, on the path that serves: paged attention, key-value precision, caches, speculation,
at the served concurrency.

Scoring reads a text at once, and what breaks only token by token is not seen there. So the candidate answers each
request, and goes on from the middle of each reference answer. As long as it generates the reference's tokens, the
log-probability that the serving path reports for a token is held against what scoring said of it. Added to the scored
loss, this is the loss of the decode path against the reference, with less noise than held against it directly.

And where it leaves the reference's answer although scoring clearly prefers to stay, something else is served than was
scored: a hidden prompt, another sampler, a canned answer. Such departures are counted, and their share is bounded.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from pennyweight.evidence import Part, Reference
from pennyweight.measure.proof.asking import Scored
from pennyweight.measure.proof.intervals import ratio_interval, share_interval
from pennyweight.measure.proof.pair import Pair
from pennyweight.measure.proof.part import Row
from pennyweight.measure.proof.units import by_unit
from pennyweight.measurement import Quantity

CONTINUED_TOKENS = 8
CLIP = 0.2  # nats per token of a unit of average length
SURE_LEAD = 0.5  # nats before the second: no honest engine or 8-bit scheme departed there (docs/log/proof.md)
SURE = 1 - 1e-7  # the largest probability that a log-probability in float32 can be told from 1


def judge(pairs: Sequence[Pair], error: float) -> list[Row]:
    """The decode path's own loss. It has no limit of its own: it counts in the margin, within `added_nats`."""
    found = [(pair, *lost_in_decoding(pair)) for pair in pairs if pair.scored is not None]
    found = [one for one in found if one[2]]
    if not found:
        return _departures(pairs, error)
    kept = [pair for pair, _, _ in found]
    counts = by_unit(kept, [float(count) for _, _, count in found])
    bound = CLIP * float(counts.mean())
    totals = np.clip(by_unit(kept, [nats for _, nats, _ in found]), -bound, bound)
    value, interval = ratio_interval(totals, counts, bound=bound, error=error)
    return [
        Row(Part.DECODE, Quantity("decode_added_nats", value, "nats/token", "lower", interval=interval)),
        *_departures(pairs, error),
    ]


def covered(pairs: Sequence[Pair]) -> float:
    """The share of answers that came with the log-probability of every token."""
    whole = [p for p in pairs if p.answered.tokens is not None and len(p.answered.logprobs) == len(p.answered.tokens)]
    return len(whole) / len(pairs)


def _departures(pairs: Sequence[Pair], error: float) -> list[Row]:
    """The share of units with an answer that leaves the reference where scoring is sure of it; nothing where the server
    gives no token ids."""
    compared = [pair for pair in pairs if pair.scored is not None and pair.answered.tokens is not None]
    if not compared:
        return []
    gone = {pair.unit: pair.request.id for pair in compared if departs(pair)}
    units = len({pair.unit for pair in compared})
    share, interval = share_interval(len(gone), units, error)
    named = ", ".join(map(repr, list(gone.values())[:3]))
    reason = f"{len(gone)} of {units} answers leave the reference where scoring is sure of it, such as {named}"
    return [Row(Part.DECODE, Quantity("departures", share, "1", "lower", interval=interval), reason if gone else "")]


def departs(pair: Pair) -> bool:
    """Does a served answer leave the reference at a token that scoring prefers by `SURE_LEAD`? Ending early and going
    on after the end are departures too."""
    assert pair.scored is not None
    wanted, tops = pair.reference.scored_tokens, pair.scored.tops
    answered = pair.answered
    ended = (pair.reference.end,) if answered.finish == "stop" and pair.reference.end is not None else ()
    runs: list[tuple[int, Sequence[int], bool]] = [(0, (*(answered.tokens or ()), *ended), answered.finish != "length")]
    runs += [(one.start, one.tokens, False) for one in pair.continued]
    for start, tokens, whole in runs:
        place = _first_difference(wanted, start, tokens, whole=whole)
        if place is None or place >= len(wanted):
            continue
        (first, likeliest), *others = tops[place]
        second = others[0][1] if others else -math.inf
        if first == wanted[place] and likeliest - second >= SURE_LEAD:
            return True
    return False


def _first_difference(wanted: Sequence[int], start: int, tokens: Sequence[int], *, whole: bool) -> int | None:
    """The place in the reference's answer; None where there is none. `whole`: the answer ended by itself where its
    tokens end."""
    for place, (want, token) in enumerate(zip(wanted[start:], tokens, strict=False), start=start):
        if want != token:
            return place
    end = start + len(tokens)
    return end if whole and end < len(wanted) else None


def cut_of(reference: Reference, seed: int) -> int | None:
    """Where the candidate goes on within the reference's answer: a seeded place; None where the answer is too short."""
    last = len(reference.answer) - 2
    return random.Random(f"{seed}:{reference.request_id}").randint(1, last) if last >= 1 else None


def lost_in_decoding(pair: Pair) -> tuple[float, int]:
    """Nats lost on the decode path beyond what scoring says, and over how many tokens. Where a schema has a say in what
    comes next, another token is no loss: two libraries may forbid different ones."""
    free = not pair.request.has_form
    runs = [(0, pair.answered.tokens or (), pair.answered.logprobs)]
    runs += [(one.start, one.tokens, one.logprobs) for one in pair.continued]
    nats, count = 0.0, 0
    for start, tokens, logprobs in runs:
        lost, compared = _lost(pair.reference.answer[start:], pair.scored, start, tokens, logprobs, free=free)
        nats, count = nats + lost, count + compared
    return nats, count


def _lost(
    wanted: Sequence[int],
    scored: Scored | None,
    start: int,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    *,
    free: bool,
) -> tuple[float, int]:
    """Up to the first token that is not the reference's; with it where the candidate was `free` to choose it."""
    if scored is None or len(logprobs) != len(tokens):
        return 0.0, 0
    nats, count = 0.0, 0
    for place, (want, token, logprob) in enumerate(zip(wanted, tokens, logprobs, strict=False), start=start):
        said = scored.logprobs[place]
        if token == want:
            nats, count = nats + said - logprob, count + 1
            continue
        if not free:
            break
        count += 1
        # It chose another token, so the reference's has at most its probability, and at most what that leaves.
        nats += said - min(said, logprob, math.log1p(-min(math.exp(logprob), SURE)))
        break
    return nats, count
