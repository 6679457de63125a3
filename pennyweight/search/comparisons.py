"""The chosen deployment against another one, interleaved: how much faster is it?"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from pennyweight.deployment import Deployment
from pennyweight.measure.compare import Opener
from pennyweight.measurement import Comparison
from pennyweight.search.bench import Bench
from pennyweight.search.faults import TRIAL_FAULTS
from pennyweight.search.trials import Trials
from pennyweight.study import Stage, Trial
from pennyweight.workload import Workload

ROUND_SECONDS = 60.0  # that one run of the slower side may take, as long as every stream has a request


def compare(
    trials: Trials,
    bench: Bench,
    pair: tuple[Deployment, Deployment],
    load: Workload,
    *,
    warm_with: Workload,
    ratio: float,
    opener: Callable[[Deployment, ExitStack], Opener],
) -> Comparison | None:
    """None when there is nothing to compare or it could not be measured. `ratio` is the first one's tokens per token of
    the other."""
    chosen, other = pair
    if chosen == other:
        return None
    known = trials.study.find(Stage.COMPARE, other.id)
    if known is not None and known.comparison is not None and known.notes.get("chosen") == chosen.id:
        return known.comparison
    trials.listener.stage(f"How much faster than {other.short_label}?")
    started = time.perf_counter()
    comparison, failure, streams = None, None, trials.question.streams
    shorter = _within_time(trials, load, pair)
    try:
        with ExitStack() as kept:
            openers = [opener(deployment, kept) for deployment in pair]
            measured = bench.compare(openers, shorter, streams=streams, warm_with=warm_with)
            comparison = measured.in_other_tokens(ratio)
    except TRIAL_FAULTS as error:
        failure = str(error)
    seconds, notes = time.perf_counter() - started, {"chosen": chosen.id, "requests": len(shorter.requests)}
    trials.record(Trial(Stage.COMPARE, other, comparison=comparison, failure=failure, seconds=seconds, notes=notes))
    return comparison


def _within_time(trials: Trials, load: Workload, pair: tuple[Deployment, Deployment]) -> Workload:
    """So many of the requests as the slower of both answers in a minute, but one for each stream at least: on a slow
    machine the comparison would otherwise take longer than all that it is about."""
    rates = [
        trial.measurement["output_throughput"]
        for trial in trials.study.trials
        if trial.measurement is not None and trial.deployment in pair and "output_throughput" in trial.measurement
    ]
    if not rates:
        return load
    tokens = float(np.mean([request.max_tokens for request in load.requests]))
    count = max(trials.question.streams, int(ROUND_SECONDS * min(rates) / tokens))
    return load.take(count, trials.question.seed)
