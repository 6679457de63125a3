"""Several runs of the same load as one measurement, each number with an interval: what limits of speed and memory are
judged on, because one run can hold a limit by luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pennyweight.measurement import Measurement, Quantity

PROOF_RUNS = 3


def combined(runs: Sequence[Measurement], error: float) -> Measurement:
    """The mean of each quantity over the runs, with Student's interval, each side of which is wrong with probability
    `error`; for peak memory the highest peak, which no run may exceed. One run has no interval."""
    first, *others = runs
    if not others:
        return first
    shared = [name for name in first.quantities if all(name in run for run in others)]
    made = {name: _combined([run.quantities[name] for run in runs], error) for name in shared}
    late = [run.conditions["late_generator_ms"] for run in runs if "late_generator_ms" in run.conditions]
    conditions = {**first.conditions, "runs": len(runs)} | ({"late_generator_ms": max(late)} if late else {})
    return Measurement(first.subject, made, conditions)


def _combined(quantities: Sequence[Quantity], error: float) -> Quantity:
    from scipy import stats

    first = quantities[0]
    values = np.array([quantity.value for quantity in quantities], dtype=float)
    half = float(stats.t.ppf(1 - error, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    if first.name == "peak_memory_bytes":
        highest = float(values.max())
        return replace(first, value=highest, interval=(mean - half, max(highest, mean + half)))
    raw = tuple(value for quantity in quantities for value in quantity.raw)
    return replace(first, value=mean, raw=raw, interval=(max(0.0, mean - half), mean + half))
