"""The Pareto front: trials that no other trial beats in every quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pennyweight.measurement import Measurement


def front(measurements: Sequence[Measurement], directions: Mapping[str, str]) -> list[int]:
    """Indices of the non-dominated measurements. One that lacks a quantity of `directions` takes no part."""
    rows = {
        index: [(-1 if better == "higher" else 1) * m[name] for name, better in directions.items()]
        for index, m in enumerate(measurements)
        if all(name in m for name in directions)
    }

    def dominated(index: int) -> bool:
        own = rows[index]
        return any(
            all(a <= b for a, b in zip(other, own, strict=True)) and other != own
            for key, other in rows.items()
            if key != index
        )

    return [index for index in rows if not dominated(index)]
