"""Is speculative decoding faster for this workload, and up to which load? The result is stored in the deployment.

Verifying draft tokens costs arithmetic and saves reads of the weights, so it is faster where memory is the bottleneck:
at few streams. No engine here can switch speculation per request, so the deployment uses it if it is faster at the
requested load. The highest load at which it is faster is recorded in any case, for serving at other loads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

from pennyweight.deployment import Deployment
from pennyweight.measure import compare as comparing
from pennyweight.measurement import Comparison
from pennyweight.search import compatibility
from pennyweight.search.bench import Bench
from pennyweight.search.faults import TRIAL_FAULTS
from pennyweight.search.trials import Trials
from pennyweight.serve import catalogue
from pennyweight.study import Stage, Trial
from pennyweight.workload import Workload

PRESET = "n-gram speculation"
LOADS = (1, 2, 4, 8, 16, 32, 64, 128)
MIN_SPECULATION_SPEEDUP = 1.03  # least speed-up at which speculation is kept
REQUESTS, WAVES = 8, 2  # of one run: at least this many requests, and this many for each stream


def loads(streams: int) -> list[int]:
    return [*(load for load in LOADS if load < streams), streams]


def with_speculation(chosen: Deployment) -> Deployment | None:
    """The deployment with n-gram speculation; None where the engine has none, or it conflicts with the settings."""
    presets = catalogue.offer(chosen.engine).presets
    if PRESET not in presets or chosen.settings.get("speculative_method"):
        return None
    settings = {**chosen.settings, **presets[PRESET]}
    return None if compatibility.conflict(chosen.engine, settings, presets) else replace(chosen, settings=settings)


def find_max_speculating_streams(
    trials: Trials, bench: Bench, tuning: Workload, *, chosen: Deployment, speculative: Deployment
) -> int:
    """The most streams at which speculation is faster, or 0: interleaved runs with and without, from one stream up."""
    paid = 0
    with ExitStack() as kept:
        openers = [comparing.opened_once(_opened(bench, one), kept) for one in (speculative, chosen)]
        for load in loads(trials.question.streams):
            trials.listener.stage(f"Does speculative decoding pay at {load} streams?")
            comparison = _known(trials, speculative, load) or _compare(
                trials, bench, tuning, speculative=speculative, openers=openers, load=load
            )
            if comparison is None or comparison.ratio < MIN_SPECULATION_SPEEDUP:
                break
            paid = load
    return paid


def _opened(bench: Bench, deployment: Deployment) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: bench.open(deployment)


def _known(trials: Trials, speculative: Deployment, load: int) -> Comparison | None:
    for trial in trials.study.of_stage(Stage.SPECULATE):
        if trial.deployment.id == speculative.id and trial.notes.get("streams") == load:
            return trial.comparison
    return None


def _compare(
    trials: Trials,
    bench: Bench,
    tuning: Workload,
    *,
    speculative: Deployment,
    openers: Sequence[comparing.Opener],
    load: int,
) -> Comparison | None:
    count = max(REQUESTS, WAVES * load)
    requests = tuning.take(count, trials.question.seed).at_least(count)
    started = time.perf_counter()
    comparison, failure = None, None
    try:
        comparison = bench.compare(openers, requests, streams=load)
    except TRIAL_FAULTS as error:
        failure = str(error)
    seconds, notes = time.perf_counter() - started, {"streams": load}
    trials.record(
        Trial(Stage.SPECULATE, speculative, comparison=comparison, failure=failure, seconds=seconds, notes=notes)
    )
    return comparison
