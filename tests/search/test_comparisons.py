"""The final comparison takes so many requests as a slow machine answers in a minute, one for each stream at least."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight.deployment import Deployment
from pennyweight.measurement import Quantity, collect
from pennyweight.search.comparisons import ROUND_SECONDS, _within_time
from pennyweight.study import Stage, Trial
from pennyweight.workload import Request, Workload
from tests.search.fake_bench import FakeBench, candidates, search

LOAD = Workload("w", tuple(Request(f"r{n}", f"s{n}", 100, prompt=f"p{n}") for n in range(96)))
FAST, SLOW = (Deployment(engine, "/m", engine, "F16", {}) for engine in ("openvino", "transformers"))


@pytest.mark.parametrize(("tokens_per_s", "requests"), [(1000.0, 96), (50.0, 30), (1.0, 4)])
def test_the_slower_side_sets_the_length(tokens_per_s: float, requests: int, tmp_path: Path) -> None:
    trials = search(FakeBench(lambda *_: 1.0), candidates(("openvino", "F16")), tmp_path).trials
    for deployment, rate in ((FAST, 2000.0), (SLOW, tokens_per_s)):
        measured = collect("x", [Quantity("output_throughput", rate, "tokens/s", "higher")])
        trials.study.append(Trial(Stage.SCREEN, deployment, measured))
    shorter = _within_time(trials, LOAD, (FAST, SLOW))
    assert len(shorter.requests) == requests
    assert ROUND_SECONDS == 60.0 and trials.question.streams == 4


def test_without_a_measurement_the_load_stays_whole(tmp_path: Path) -> None:
    trials = search(FakeBench(lambda *_: 1.0), candidates(("openvino", "F16")), tmp_path).trials
    assert _within_time(trials, LOAD, (FAST, SLOW)) == LOAD
