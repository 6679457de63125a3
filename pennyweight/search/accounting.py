"""What each technique cost and gained, alone and together: from the trials, against the same engine and scheme without
any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from pennyweight.study import Trial


def account(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One row per screened recipe, engine and scheme that has its plain counterpart. `alone` multiplies what the steps
    gave one by one: a `speed` below it means that they do not add up."""
    screened = {t.deployment.group: t for t in trials if t.stage == "screen" and t.measurement}
    gains: dict[tuple[str, str, str], float] = {}
    rows = []
    for (engine, scheme, recipe), trial in screened.items():
        plain = screened.get((engine, scheme, ""))
        if not recipe or plain is None or trial.measurement is None or plain.measurement is None:
            continue
        speed = trial.measurement["output_throughput"] / plain.measurement["output_throughput"]
        gains[engine, scheme, recipe] = speed
        rows.append(
            {
                "recipe": recipe,
                "engine": engine,
                "scheme": scheme,
                "speed": speed,
                "memory": _ratio(trial, plain, "peak_memory_bytes"),
                "added_nats": (trial.measurement.get("added_nats") or 0.0)
                - (plain.measurement.get("added_nats") or 0.0),
            }
        )
    for row in rows:
        row["alone"] = _alone(row, gains)
    return rows


def _alone(row: Mapping[str, Any], gains: Mapping[tuple[str, str, str], float]) -> float | None:
    parts = [gains.get((row["engine"], row["scheme"], step)) for step in row["recipe"].split("+") if step != "distill"]
    known = [part for part in parts if part is not None]
    return prod(known) if len(parts) > 1 and len(known) == len(parts) else None


def _ratio(trial: Trial, plain: Trial, name: str) -> float | None:
    above = trial.measurement.get(name) if trial.measurement else None
    below = plain.measurement.get(name) if plain.measurement else None
    return above / below if above and below else None
