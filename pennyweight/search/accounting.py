"""What each technique cost and gained, alone and together: from the trials, against the same engine and scheme without
techniques."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from pennyweight.deployment import Group
from pennyweight.evidence import TechniqueGain
from pennyweight.study import Stage, Trial


def technique_gains(trials: Sequence[Trial]) -> tuple[TechniqueGain, ...]:
    """One row per screened recipe whose engine and scheme were also screened without a recipe."""
    screened = {t.deployment.group: t for t in trials if t.stage is Stage.SCREEN and t.measurement}
    rows = []
    for (engine, scheme, recipe), trial in screened.items():
        plain = screened.get((engine, scheme, ""))
        if not recipe or plain is None or trial.measurement is None or plain.measurement is None:
            continue
        speed = trial.measurement["output_throughput"] / plain.measurement["output_throughput"]
        memory = _ratio(trial, plain, "peak_memory_bytes")
        added = (trial.measurement.get("added_nats") or 0.0) - (plain.measurement.get("added_nats") or 0.0)
        rows.append(TechniqueGain(recipe, engine, scheme, speed, memory, added))
    gains = {(row.engine, row.scheme, row.recipe): row.speed for row in rows}
    return tuple(replace(row, alone=_alone(row, gains)) for row in rows)


def _alone(row: TechniqueGain, gains: Mapping[Group, float]) -> float | None:
    parts = [gains.get((row.engine, row.scheme, step)) for step in row.recipe.split("+") if step != "distill"]
    known = [part for part in parts if part is not None]
    return prod(known) if len(parts) > 1 and len(known) == len(parts) else None


def _ratio(trial: Trial, plain: Trial, name: str) -> float | None:
    above = trial.measurement.get(name) if trial.measurement else None
    below = plain.measurement.get(name) if plain.measurement else None
    return above / below if above and below else None
