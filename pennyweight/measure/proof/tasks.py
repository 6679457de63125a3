"""Part 6: labelled requests answered right, and answers that had to keep a form: JSON schemas and tool calls.

Paired proportions are judged by a score test, which keeps a width where no pair differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pennyweight.evidence import Part
from pennyweight.measure.proof.forms import keeps_form
from pennyweight.measure.proof.intervals import paired_difference_interval, ratio_interval
from pennyweight.measure.proof.pair import Pair
from pennyweight.measure.proof.part import Row
from pennyweight.measure.proof.units import by_unit
from pennyweight.measurement import Quantity


def judge(pairs: Sequence[Pair], error: float) -> list[Row]:
    return [*_labelled(pairs, error), *_forms(pairs, error)]


def _labelled(pairs: Sequence[Pair], error: float) -> list[Row]:
    kept = [pair for pair in pairs if pair.right is not None and pair.reference.right is not None]
    if not kept:
        return []
    before = [float(bool(pair.reference.right)) for pair in kept]
    after = [float(bool(pair.right)) for pair in kept]
    baseline = float(np.mean(before))
    value, (low, high) = lost_share(kept, before, after, error)
    if baseline:
        degradation = Quantity(
            "degradation", value / baseline, "1", "lower", interval=(low / baseline, high / baseline)
        )
    else:  # it is never right, so it has nothing to lose and nothing can be said
        degradation = Quantity("degradation", 0.0, "1", "lower", interval=(float("-inf"), float("inf")))
    return [
        Row(Part.TASKS, Quantity("task_score", float(np.mean(after)), "1", "higher")),
        Row(Part.TASKS, Quantity("baseline_task_score", baseline, "1", "higher")),
        Row(Part.TASKS, degradation),
    ]


def _keeps(pair: Pair) -> bool:
    """Where the reference called a tool, plain text is no answer of the form."""
    called = bool(pair.answered.message.get("tool_calls"))
    return keeps_form(pair.request, pair.answered) and (called or pair.reference.finish != "tool_calls")


def lost_share(
    pairs: Sequence[Pair], before: Sequence[float], after: Sequence[float], error: float
) -> tuple[float, tuple[float, float]]:
    """Share of the pairs that were right before and are not now, less those the other way; 0 or 1 in each."""
    lost = [a - b for a, b in zip(before, after, strict=True)]
    units = len({pair.unit for pair in pairs})
    if units == len(pairs):
        return paired_difference_interval(lost.count(1.0), lost.count(-1.0), len(lost), error)
    sizes = by_unit(pairs, [1.0] * len(pairs))
    return ratio_interval(by_unit(pairs, lost), sizes, bound=float(sizes.max()), error=error)


def _forms(pairs: Sequence[Pair], error: float) -> list[Row]:
    """Validity of what must follow a schema or call a tool."""
    kept = [pair for pair in pairs if pair.request.has_form and pair.reference.valid is not None]
    if not kept:
        return []
    before = [float(bool(pair.reference.valid)) for pair in kept]
    after = [float(_keeps(pair)) for pair in kept]
    value, interval = lost_share(kept, before, after, error)
    return [Row(Part.TASKS, Quantity("invalid_forms", value, "1", "lower", interval=interval))]
