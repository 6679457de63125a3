"""How much faster is A than B? Interleaved runs of both, and the ratio with its confidence interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack

import numpy as np

from pennyweight.measure.client import Sampling
from pennyweight.measure.replay import Progress, no_progress
from pennyweight.measure.speed import LATE_RETRIES, measure_speed
from pennyweight.measurement import Comparison
from pennyweight.serve.opening import Endpoint
from pennyweight.workload import Arrivals, Workload

# Makes an endpoint ready for one run. What it puts on the stack ends with the run.
Opener = Callable[[ExitStack], Endpoint]


def opened_once(start: Callable[[], AbstractContextManager[Endpoint]], kept: ExitStack) -> Opener:
    """Starts the server for the first run and keeps it on `kept` for all that follow."""
    running: list[Endpoint] = []

    def keep(stack: ExitStack) -> Endpoint:
        del stack
        if not running:
            running.append(kept.enter_context(start()))
        return running[0]

    return keep


def compare(
    open_a: Opener,
    open_b: Opener,
    workload: Workload,
    arrivals: Arrivals,
    *,
    rounds: int = 3,
    seed: int = 0,
    warm_with: Workload | None = None,
    confidence: float = 0.95,
    ignore_eos: bool = False,
    quantity: str = "output_throughput",
    caches: bool = False,
    progress: Progress = no_progress,
) -> Comparison:
    """Interleaved runs of both, summarised. `ignore_eos` is for models that end their answers at random; where answers
    differ in length, `quantity` request_throughput compares the work done. With `caches` both answer from theirs, and
    each run is the workload as it is: the openers start anew for each."""
    speeds: Sequence[list[float]] = ([], [])
    openers = (open_a, open_b)
    for number, which in interleaved(len(openers), rounds):
        # The openers may keep their servers running, with their prefix caches.
        load = workload if caches else workload.variant(number)
        with ExitStack() as stack:
            endpoint = openers[which](stack)
            sampling = Sampling(ignore_eos=ignore_eos)
            run = measure_speed(
                endpoint,
                load,
                arrivals,
                sampling,
                seed=seed + number,
                warm_with=warm_with,
                late_retries=LATE_RETRIES,
                accept_late=True,
                caches=caches,
            )
            speeds[which].append(run[quantity])
        progress(sum(map(len, speeds)), 2 * rounds)
    return summarise(speeds[0], speeds[1], confidence)


def interleaved(count: int, rounds: int) -> Iterator[tuple[int, int]]:
    """(round, which): 0 1 2, 2 1 0, 0 1 2, … The order turns each round, so that a drifting machine favours none."""
    for number in range(rounds):
        for which in range(count) if number % 2 == 0 else reversed(range(count)):
            yield number, which


def summarise(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Comparison:
    """Ratio of the throughputs. Its spread comes from the log ratios of the pairs (Student's t: pairs are few)."""
    from scipy import stats

    logs = np.log(np.array(a) / np.array(b))
    ratio = float(np.exp(logs.mean()))
    if len(logs) < 2:
        return Comparison(ratio, (0.0, float("inf")), tuple(a), tuple(b))
    half = float(stats.t.ppf(0.5 + confidence / 2, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)))
    return Comparison(ratio, (float(ratio * np.exp(-half)), float(ratio * np.exp(half))), tuple(a), tuple(b))
