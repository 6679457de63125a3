"""Part 1: the candidate reads the same prompt, token by token, as the reference did.

Another chat template, a second BOS, a hidden system prompt or a cut prompt change what is asked; no comparison of
answers can be trusted after that.
"""

from __future__ import annotations

from collections.abc import Sequence

from pennyweight.evidence import Part
from pennyweight.measure.proof.pair import Pair
from pennyweight.measure.proof.part import Row
from pennyweight.measurement import Quantity


def judge(pairs: Sequence[Pair]) -> list[Row]:
    differing = [pair for pair in pairs if not same_prompt(pair)]
    quantity = Quantity("different_prompts", len(differing), "requests", "lower")
    reason = _difference(differing[0]) if differing else ""
    return [Row(Part.SAME_QUESTION, quantity, reason)]


def same_prompt(pair: Pair) -> bool:
    """Of a server that gives no token ids only the counts can be compared."""
    ours, theirs = pair.reference.prompt, pair.answered
    return theirs.prompt_count == len(ours) if theirs.prompt is None else theirs.prompt == ours


def _difference(pair: Pair) -> str:
    ours, theirs = pair.reference.prompt, pair.answered.prompt
    if theirs is None:
        return f"request {pair.request.id!r}: the candidate read {pair.answered.prompt_count} tokens, not {len(ours)}"
    place = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    return (
        f"request {pair.request.id!r}: the candidate read another prompt ({len(theirs)} tokens, the reference "
        f"{len(ours)}), different from place {place} on"
    )
