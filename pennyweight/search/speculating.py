"""Does guessing ahead pay for this workload, and up to which load? The answer goes into the deployment.

A guess costs arithmetic and saves reads of the weights, so it pays where memory sets the pace: at few streams. No
engine here can guess for one request and not for another, so the deployment guesses if that pays at the load asked for;
where it pays is told in any case, for whoever serves another load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from pennyweight.deployment import Deployment
from pennyweight.measure import compare as comparing
from pennyweight.measure.compare import Comparison
from pennyweight.search import compatibility
from pennyweight.search.trials import TRIAL_FAULTS, Workbench
from pennyweight.serve import catalogue
from pennyweight.study import Trial
from pennyweight.workload import Arrivals

LEVER = "n-gram guesses"
LOADS = (1, 2, 4, 8, 16, 32, 64, 128)
STAGE = "speculate"
WORTH_GUESSING = 1.03  # times as fast, to be kept
REQUESTS, WAVES = 8, 2  # of one run: at least so many requests, and so many for each stream


def loads(streams: int) -> list[int]:
    return [*(load for load in LOADS if load < streams), streams]


def guessing(chosen: Deployment) -> Deployment | None:
    """The same with guesses; None where the engine has none, or they break with what is set."""
    levers = catalogue.offer(chosen.engine).levers
    if LEVER not in levers or chosen.settings.get("speculative_method"):
        return None
    settings = {**chosen.settings, **levers[LEVER]}
    return None if compatibility.conflict(chosen.engine, settings, levers) else replace(chosen, settings=settings)


def find_crossover(bench: Workbench, chosen: Deployment, guessed: Deployment) -> int:
    """Streams up to which guesses pay, 0 where they never do: interleaved runs with them and without, from one stream
    up."""
    paid = 0
    with ExitStack() as kept:
        openers = [comparing.opened_once(_starter(bench, deployment), kept) for deployment in (guessed, chosen)]
        for load in loads(bench.question.streams):
            bench.listener.stage(f"Does guessing ahead pay at {load} streams?")
            comparison = _compare(bench, guessed, openers, load)
            if comparison is None or comparison.ratio < WORTH_GUESSING:
                break
            paid = load
    return paid


def _starter(bench: Workbench, deployment: Deployment) -> Callable[[], Any]:
    return lambda: bench.serve(deployment)


def _compare(
    bench: Workbench, guessed: Deployment, openers: Sequence[comparing.Opener], load: int
) -> Comparison | None:
    for trial in bench.study.trials:
        if trial.key == (STAGE, guessed.id) and trial.notes.get("streams") == load:
            return Comparison.from_json(trial.notes) if trial.failure is None else None
    count = max(REQUESTS, WAVES * load)
    requests = bench.tuning.take(count, bench.question.seed).at_least(count)
    started = time.perf_counter()
    try:
        comparison = comparing.compare(
            openers[0],
            openers[1],
            requests,
            Arrivals("closed", max_concurrency=load),
            rounds=bench.question.rounds,
            seed=bench.question.seed + load,
            progress=bench.listener.progress,
        )
    except TRIAL_FAULTS as error:
        notes: Mapping[str, Any] = {"streams": load}
        bench.record(Trial(STAGE, guessed, failure=str(error), seconds=time.perf_counter() - started, notes=notes))
        return None
    notes = {"streams": load, **comparison.as_json()}
    bench.record(Trial(STAGE, guessed, seconds=time.perf_counter() - started, notes=notes))
    return comparison
