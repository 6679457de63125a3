"""Independent units of a proof: sessions, of which those that share a prompt are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pennyweight.evidence import Reference
from pennyweight.measure.proof.pair import Pair
from pennyweight.workload import Request, clusters

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """`of` gives a request's unit by its id; `mean_tokens` are the scored tokens of a unit, on average over the whole
    held-out half."""

    of: Mapping[str, str]
    mean_tokens: float

    @classmethod
    def over(cls, requests: Sequence[Request], references: Mapping[str, Reference]) -> Units:
        of = clusters(requests)
        tokens = sum(len(references[request.id].logprobs) for request in requests)
        return cls(of, max(1.0, tokens / max(1, len(set(of.values())))))


def by_unit(pairs: Sequence[Pair], values: Sequence[float]) -> Floats:
    """The sum of each unit's values, units in the order in which they first come."""
    sums: dict[str, float] = {}
    for pair, value in zip(pairs, values, strict=True):
        sums[pair.unit] = sums.get(pair.unit, 0.0) + value
    return np.array(list(sums.values()))
