"""The chosen deployment at lower loads, for the report: where does its throughput stop growing?"""

from __future__ import annotations

import contextlib
import time

from pennyweight.deployment import Deployment
from pennyweight.measure.speed import in_other_tokens
from pennyweight.search.bench import Bench
from pennyweight.search.faults import TRIAL_FAULTS
from pennyweight.search.speculating import loads
from pennyweight.search.trials import Trials
from pennyweight.study import Stage, Trial
from pennyweight.workload import Workload

REQUESTS, WAVES = 4, 2  # of one run: at least this many requests, and this many for each stream


def sweep(trials: Trials, bench: Bench, tuning: Workload, *, chosen: Deployment, ratio: float) -> None:
    """One run at each load that was not measured yet. `ratio` is its tokens per baseline token. A failure here
    does not change the result of the search."""
    done = {t.notes.get("streams") for t in trials.study.of_stage(Stage.SWEEP) if t.deployment.id == chosen.id}
    left = [load for load in loads(trials.question.streams) if load not in done]
    if not left:
        return
    trials.listener.stage(f"Throughput and latency at {', '.join(map(str, left))} streams")
    with contextlib.suppress(*TRIAL_FAULTS), bench.open(chosen) as running:
        for streams in left:
            started = time.perf_counter()
            count = max(REQUESTS, WAVES * streams)
            load = tuning.take(count, trials.question.seed).at_least(count).variant(streams)
            made = in_other_tokens(bench.speed(running, load, streams=streams), ratio)
            seconds, notes = time.perf_counter() - started, {"streams": streams}
            trials.record(Trial(Stage.SWEEP, chosen, made, seconds=seconds, notes=notes))
