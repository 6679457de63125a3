"""Part 4: answers end as the reference's do: finish reasons and lengths, paired.

An end token that is never met, one that ends every answer, or an empty answer leave no trace in scores of given text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pennyweight.budget import ENDING_CLIP, LENGTH_CLIP
from pennyweight.evidence import Part
from pennyweight.measure.proof.intervals import ratio_interval
from pennyweight.measure.proof.pair import Pair
from pennyweight.measure.proof.part import Row
from pennyweight.measure.proof.units import by_unit
from pennyweight.measurement import Quantity


def judge(pairs: Sequence[Pair], error: float) -> list[Row]:
    return [_empty(pairs), _texts(pairs), _ended(pairs, error), _length(pairs, error)]


def _empty(pairs: Sequence[Pair]) -> Row:
    empty = [pair.request.id for pair in pairs if not pair.answered.count or _blank(pair)]
    reason = f"request {empty[0]!r} got an empty answer, which the reference answers" if empty else ""
    return Row(Part.ENDINGS, Quantity("empty_answers", len(empty), "requests", "lower"), reason)


def _blank(pair: Pair) -> bool:
    """Tokens, but no text where the reference has some: what a user sees is empty."""
    calls = pair.answered.message.get("tool_calls")
    return bool(pair.reference.text.strip()) and not pair.answered.text.strip() and not calls


def _texts(pairs: Sequence[Pair]) -> Row:
    """The same tokens as the reference must be the same text: a broken detokenizer shows nowhere else."""
    wrong = [
        pair.request.id
        for pair in pairs
        if pair.answered.tokens == pair.reference.answer and pair.answered.text.split() != pair.reference.text.split()
    ]
    reason = f"request {wrong[0]!r} got the reference's tokens as another text" if wrong else ""
    return Row(Part.ENDINGS, Quantity("different_texts", len(wrong), "requests", "lower"), reason)


def _ended(pairs: Sequence[Pair], error: float) -> Row:
    """By how much the share of answers that end by themselves differs."""
    ends = [float(pair.answered.finish != "length") - float(pair.reference_finish != "length") for pair in pairs]
    sizes = by_unit(pairs, [1.0] * len(pairs))
    bound = ENDING_CLIP * float(sizes.mean())
    value, interval = ratio_interval(np.clip(by_unit(pairs, ends), -bound, bound), sizes, bound=bound, error=error)
    return Row(Part.ENDINGS, _either_way("ending_shift", value, interval))


def _length(pairs: Sequence[Pair], error: float) -> Row:
    """By how much the total length of the answers differs, as a share."""
    usual = [float(max(1, len(pair.reference.answer))) for pair in pairs]
    longer = [pair.answered.count - length for pair, length in zip(pairs, usual, strict=True)]
    sizes = by_unit(pairs, usual)
    bound = LENGTH_CLIP * float(sizes.mean())
    value, interval = ratio_interval(np.clip(by_unit(pairs, longer), -bound, bound), sizes, bound=bound, error=error)
    return Row(Part.ENDINGS, _either_way("length_shift", value, interval))


def _either_way(name: str, value: float, interval: tuple[float, float]) -> Quantity:
    """The size of a difference that may go both ways, with its interval."""
    low, high = interval
    return Quantity(name, abs(value), "1", "lower", interval=(max(0.0, low, -high), max(abs(low), abs(high))))
