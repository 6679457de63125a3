"""Whether similar answers are served is decided on what was earned, proven and measured; each way to fail is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pennyweight.budget import Budget
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineError, UsageError
from pennyweight.evidence import Reference
from pennyweight.measure.compare import summarise
from pennyweight.measure.proof.asking import Answered
from pennyweight.measurement import Comparison
from pennyweight.model import Lineage, Model
from pennyweight.search.question import Question, _refuse_similar
from pennyweight.search.similar_bench import Served
from pennyweight.search.similar_search import SimilarSearch, bound_of, error_of_proof
from pennyweight.serve.gateway.similar_store import Label
from pennyweight.service import Service, SimilarPolicy
from pennyweight.similar_evidence import SimilarEvidence
from pennyweight.similarity.bound import Threshold
from pennyweight.workload import Request, Workload

ERROR = error_of_proof(SimilarPolicy(0.05))
LABELS = [Label(0.8, False)] * 70
WORK = Workload(
    "work", tuple(Request(f"r{n}", f"s{n}", 8, prompt=f"ask {n}", reference="7", scorer="exact") for n in range(300))
)


def served(
    hits: int, wrong: int = 0, *, text: str = "7", finish: str = "stop", sessions: int = 0, count: int = 150
) -> list[Served]:
    """`sessions`: the hits are of so many of them."""
    rows = []
    for place, request in enumerate(WORK.requests[:count]):
        hit = place < hits
        if sessions and hit:
            request = replace(request, session=f"s{place % sessions}")
        answered = Answered(None, None, (), text if hit else "7", finish if hit else "stop", {}, 3, 1)
        rows.append(Served(request, answered, hit, right=not (hit and place < wrong)))
    return rows


@dataclass
class Bench:
    labels: list[Label] = field(default_factory=lambda: LABELS)
    rows: list[Served] = field(default_factory=lambda: served(80))
    faster: Comparison = field(default_factory=lambda: summarise([20.0, 21.0, 20.5], [10.0, 10.4, 10.2]))
    fault: str = ""
    asked: list[str] = field(default_factory=list)
    allowed: list[Threshold] = field(default_factory=list)

    def judge(self, service: Service, tuning: Workload) -> list[Label]:
        self.asked.append("judge")
        if self.fault:
            raise EngineError(self.fault)
        assert service.cache.similar.limit == 0.05
        return self.labels

    def allow(self, service: Service, threshold: Threshold) -> None:
        self.allowed.append(threshold)

    def serve(self, service: Service, half: Workload) -> list[Served]:
        self.asked.append("serve")
        return self.rows

    def compare(self, service: Service, without: Service, half: Workload) -> Comparison:
        self.asked.append("compare")
        assert service.cache.similar.limit and not without.cache.similar.limit and without.cache.place
        return self.faster


def question(**more: Any) -> Question:
    model = Model(Path("/m"), "huggingface", "F32", Lineage("tiny", {"a": "1"}))
    return Question(model, **{"workload": WORK, "budget": Budget(), "similar": 0.05, **more})


class Quiet:
    def stage(self, text: str) -> None: ...
    def progress(self, done: int, total: int, note: str = "") -> None: ...
    def trial(self, trial: object) -> None: ...


class Accepted:
    """What the search reads of an accepted answer."""

    chosen: Deployment = Deployment("scripted", "/m", "id", "F32")
    held_out = replace(WORK, requests=WORK.requests[:150])
    references: Mapping[str, Reference] = {
        r.id: Reference(r.id, (1,), (2,), "7", (-0.1,), (True,), right=True, finish="stop") for r in WORK.requests
    }


def found(bench: Bench, answer: Any = Accepted) -> SimilarEvidence:
    return SimilarSearch(question(), bench, Quiet()).run(answer, Path("/out/answers.db"))


def test_what_is_earned_proven_and_faster_is_served() -> None:
    bench = Bench()
    evidence = found(bench)
    assert evidence.served and (evidence.hits, evidence.wrong, evidence.threshold) == (80, 0, 0.5)
    assert 0.04 < evidence.bound < 0.05 and evidence.faster is not None
    assert bench.allowed[-1] == Threshold(0.5, 80, 0, evidence.bound), "what serves was proven on the held-out half"


def test_a_looser_score_is_chosen_only_where_it_seems_to_hold() -> None:
    mixed = [Label(0.9, False)] * 60 + [Label(0.6, True)] * 30
    assert 0.6 < (found(Bench(labels=mixed)).threshold or 0) <= 0.9


@pytest.mark.parametrize(
    ("bench", "says", "asked"),
    [
        (Bench(labels=LABELS[:12]), "takes 32 that were judged", ["judge"]),
        (Bench(labels=[*LABELS, *[Label(0.999, True)] * 60]), "at no score", ["judge"]),
        (Bench(rows=served(40)), "takes 69", ["judge", "serve"]),
        (Bench(rows=served(0)), "0 hits", ["judge", "serve"]),
        (Bench(rows=served(100, 4)), "4 of 100 hits", ["judge", "serve"]),
        (Bench(rows=served(80, finish="length")), "ending_shift", ["judge", "serve"]),
        (Bench(rows=served(80, text="")), "empty_answers", ["judge", "serve"]),
        (Bench(faster=summarise([10.0, 11.0], [10.1, 10.4])), "not certainly faster", ["judge", "serve", "compare"]),
        (Bench(fault="it fell"), "it fell", ["judge"]),
    ],
)
def test_what_fails_is_refused_by_name_and_spends_no_more(bench: Bench, says: str, asked: list[str]) -> None:
    evidence = found(bench)
    assert says in evidence.refused and not evidence.served
    assert bench.asked == asked


def test_a_server_of_others_has_no_cache_of_ours() -> None:
    class Remote(Accepted):
        chosen = Deployment("remote", "", "id", "", {"base_url": "http://x", "served_model": "m"})

    bench = Bench()
    assert "runs already" in found(bench, Remote).refused and not bench.asked


def test_hits_of_one_session_are_not_independent() -> None:
    alone, together = bound_of(served(80, 1), ERROR), bound_of(served(80, 1, sessions=20), ERROR)
    assert together.bound > 1.5 * alone.bound


def test_the_bound_has_a_width_where_nothing_is_wrong() -> None:
    """69 without a wrong one show 5%, in sessions of their own or of two hits each."""
    assert bound_of(served(69), ERROR).bound == pytest.approx(0.0494, abs=1e-3)
    assert bound_of(served(138, sessions=69), ERROR).bound > 0.04


def test_too_few_requests_are_refused_before_anything_is_spent() -> None:
    few = question(workload=replace(WORK, requests=WORK.requests[:130]))
    with pytest.raises(UsageError, match="takes 69 hits"):
        _refuse_similar(few)
    with pytest.raises(UsageError, match="bring more requests"):
        _refuse_similar(question(similar=0.01))
    _refuse_similar(question())
    with pytest.raises(UsageError, match="below 1"):
        question(similar=1.5)
