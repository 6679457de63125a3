"""How much faster is A than B? Interleaved runs of both, and the ratio with its confidence interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from pennyweight.measure.client import Sampling
from pennyweight.measure.replay import Progress, unwatched
from pennyweight.measure.speed import measure_speed
from pennyweight.measurement import Measurement
from pennyweight.serve import Endpoint
from pennyweight.workload import Arrivals, Workload

# Makes an endpoint ready for one run; it is closed after it, so that two engines never share the machine.
Opener = Callable[[ExitStack], Endpoint]


@dataclass(frozen=True)
class Comparison:
    """`ratio` is A's output throughput over B's, above 1 when A is faster. An interval that holds 1 is noise."""

    ratio: float
    interval: tuple[float, float]
    runs_a: tuple[Measurement, ...]
    runs_b: tuple[Measurement, ...]

    @property
    def within_noise(self) -> bool:
        return self.interval[0] <= 1.0 <= self.interval[1]

    def as_json(self) -> dict[str, Any]:
        quantity = "output_throughput"
        return {
            "ratio": self.ratio, "ci95": list(self.interval), "within_noise": self.within_noise,
            "a_tokens_per_s": [run[quantity] for run in self.runs_a],
            "b_tokens_per_s": [run[quantity] for run in self.runs_b],
        }  # fmt: skip


def compare(
    open_a: Opener, open_b: Opener, workload: Workload, arrivals: Arrivals, *, rounds: int = 3, seed: int = 0,
    warm_with: Workload | None = None, confidence: float = 0.95, progress: Progress = unwatched,
) -> Comparison:  # fmt: skip
    """A B, B A, A B, … The order turns each round, so that a drifting machine favours neither."""
    runs: Mapping[str, list[Measurement]] = {"a": [], "b": []}
    for number in range(rounds):
        order = [("a", open_a), ("b", open_b)]
        for name, opener in order if number % 2 == 0 else reversed(order):
            with ExitStack() as stack:
                endpoint = opener(stack)
                runs[name].append(
                    measure_speed(endpoint, workload, arrivals, Sampling(), seed=seed + number, warm_with=warm_with)
                )
            progress(len(runs["a"]) + len(runs["b"]), 2 * rounds)
    return summarise(runs["a"], runs["b"], confidence)


def summarise(runs_a: Sequence[Measurement], runs_b: Sequence[Measurement], confidence: float = 0.95) -> Comparison:
    """Ratio of the mean throughputs. Its spread comes from the log ratios of the pairs (Student's t: pairs are few)."""
    from scipy import stats

    a = np.array([run["output_throughput"] for run in runs_a])
    b = np.array([run["output_throughput"] for run in runs_b])
    logs = np.log(a / b)
    ratio = float(np.exp(logs.mean()))
    if len(logs) < 2:
        return Comparison(ratio, (0.0, float("inf")), tuple(runs_a), tuple(runs_b))
    half = float(stats.t.ppf(0.5 + confidence / 2, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)))
    return Comparison(ratio, (ratio * np.exp(-half), ratio * np.exp(half)), tuple(runs_a), tuple(runs_b))
