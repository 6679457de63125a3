"""Part 5: how many sessions lose far more than the mean: an exact upper bound on the share beyond the clip.

A mean cannot see one session in fifty that lost everything; a bound on such sessions can, within what their number
allows: of 64 without one, at most 4.6% are such with 95% confidence.
"""

from __future__ import annotations

from collections.abc import Sequence

from pennyweight.budget import Budget
from pennyweight.evidence import Part
from pennyweight.measure.proof.intervals import share_interval
from pennyweight.measure.proof.pair import Pair
from pennyweight.measure.proof.part import Row
from pennyweight.measure.proof.units import Units, by_unit
from pennyweight.measure.proof.weights import losses_of
from pennyweight.measurement import Quantity


def judge(pairs: Sequence[Pair], units: Units, budget: Budget, error: float) -> list[Row]:
    scored = [pair for pair in pairs if pair.scored is not None and pair.tokens]
    if not scored:
        return []
    bound = budget.clip_nats * units.mean_tokens
    nats = [loss * pair.tokens for loss, pair in zip(losses_of(scored), scored, strict=True)]
    losses = by_unit(scored, nats)
    beyond = [name for name, lost in zip(dict.fromkeys(p.unit for p in scored), losses, strict=True) if lost > bound]
    share, interval = share_interval(len(beyond), len(losses), error)
    named = ", ".join(repr(pair.request.id) for pair in scored if pair.unit in beyond[:3])
    reason = f"{len(beyond)} of {len(losses)} lose more than {bound:.3g} nats, in {named}" if beyond else ""
    return [Row(Part.TAILS, Quantity("tail_share", share, "1", "lower", interval=interval), reason)]
