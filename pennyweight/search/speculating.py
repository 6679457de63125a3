"""Does guessing ahead pay for this workload, and up to which load? The answer goes into the deployment.

A guess costs arithmetic and saves reads of the weights, so it pays where memory sets the pace: at few streams.
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
from pennyweight.search.workbench import TRIAL_FAULTS, Workbench
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


def limited(guessed: Deployment, paid: Sequence[int], streams: int) -> Deployment | None:
    """With guesses only up to the load where they paid; None where they never did, or where the engine can but guess
    always and they do not pay at the load that is asked for."""
    if not paid:
        return None
    if max(paid) >= streams:
        return guessed
    if not catalogue.offer(guessed.engine).guesses_by_load:
        return None
    return replace(guessed, settings={**guessed.settings, "disable_by_batch_size": max(paid)})


def find_crossover(bench: Workbench, chosen: Deployment) -> Deployment | None:
    """Interleaved runs with and without guesses from one stream up, until they stop paying."""
    guessed = guessing(chosen)
    if guessed is None:
        return None
    paid = []
    with ExitStack() as kept:
        openers = [comparing.opened_once(_starter(bench, deployment), kept) for deployment in (guessed, chosen)]
        for load in loads(bench.question.streams):
            bench.listener.stage(f"Does guessing ahead pay at {load} streams?")
            comparison = _compare(bench, guessed, openers, load)
            if comparison is None or comparison.ratio < WORTH_GUESSING:
                break
            paid.append(load)
    return limited(guessed, paid, bench.question.streams)


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
            openers[0], openers[1], requests, Arrivals("closed", max_concurrency=load), rounds=bench.question.rounds,
            seed=bench.question.seed + load, progress=bench.listener.progress,
        )  # fmt: skip
    except TRIAL_FAULTS as error:
        notes: Mapping[str, Any] = {"streams": load}
        bench.record(Trial(STAGE, guessed, failure=str(error), seconds=time.perf_counter() - started, notes=notes))
        return None
    notes = {"streams": load, **comparison.as_json()}
    bench.record(Trial(STAGE, guessed, seconds=time.perf_counter() - started, notes=notes))
    return comparison
