"""Attempts on one workload share one allowance, across searches."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight.budget import Outcome
from pennyweight.deployment import Deployment
from pennyweight.search.attempts import Attempts, Questions
from pennyweight.workload import Request, Workload


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workload:
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(tmp_path))
    return Workload("w", tuple(Request(f"r{n}", f"s{n}", 8, prompt=f"p{n}") for n in range(10)))


def deployment(scheme: str) -> Deployment:
    return Deployment("openvino", f"/m/{scheme}", scheme, scheme, {})


def attempts(workload: Workload, seed: int = 0, baseline: str = "model") -> Attempts:
    return Attempts.on(workload, workload.split(seed)[1], 0.95, baseline=baseline)


def test_each_new_candidate_gets_less(workload: Workload) -> None:
    made = attempts(workload)
    errors = []
    for number in range(4):
        allowance = made.next(deployment(f"Q{number}"))
        errors.append(allowance.error)
        made.record(deployment(f"Q{number}"), allowance, Outcome.REJECT)
    assert errors == sorted(errors, reverse=True) and len(set(errors)) == 4


def test_another_search_and_another_seed_go_on_counting(workload: Workload) -> None:
    first = attempts(workload)
    first.record(deployment("Q4_0"), first.next(deployment("Q4_0")), Outcome.REJECT)
    assert attempts(workload).next(deployment("Q8_0")).attempt == 2
    assert attempts(workload, seed=5).next(deployment("Q4_0")).attempt == 2


def test_what_was_accepted_may_be_shown_again_and_what_was_refused_may_not(workload: Workload) -> None:
    made = attempts(workload)
    made.record(deployment("good"), made.next(deployment("good")), Outcome.ACCEPT)
    made.record(deployment("bad"), made.next(deployment("bad")), Outcome.INCONCLUSIVE)
    again = attempts(workload)
    assert again.next(deployment("good")).attempt == 1
    assert again.next(deployment("bad")).attempt == 3


def test_another_model_is_another_question(workload: Workload) -> None:
    first = attempts(workload)
    first.record(deployment("Q4_0"), first.next(deployment("Q4_0")), Outcome.REJECT)
    assert attempts(workload, baseline="other").next(deployment("Q4_0")).attempt == 1


def test_questions_about_models_share_one_error(workload: Workload) -> None:
    first = Questions(workload, "large")
    assert first.share({"also": "small"}) == 0.9
    first.record({"also": "small"})
    again = Questions(workload, "large")
    assert again.share({"also": "small"}) == 0.9, "the same question again"
    assert again.share({"also": "other"}) == pytest.approx(0.05) and Questions(workload, "another").share({}) == 0.9
    for number in range(50):
        again.record(number)
    assert 0.9 + sum(0.1 / (n * (n - 1)) for n in range(2, 10_000)) <= 1.0
