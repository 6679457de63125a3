"""What a part of the proof contributes: rows of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from pennyweight.evidence import Part
from pennyweight.measurement import Quantity


@dataclass(frozen=True)
class Row:
    """One number of a part. `reason` says in words what would break its limit, which the budget has."""

    part: Part
    quantity: Quantity
    reason: str = ""
