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
from pennyweight.search.similar_search import SimilarSearch, bound_of, certify, error_of_proof
from pennyweight.service import Service, SimilarPolicy
from pennyweight.similar_evidence import SimilarEvidence
from pennyweight.similarity.bound import Threshold
from pennyweight.workload import Request, Workload

ERROR = error_of_proof(SimilarPolicy(0.05))
WORK = Workload(
    "work", tuple(Request(f"r{n}", f"s{n}", 8, prompt=f"ask {n}", reference="7", scorer="exact") for n in range(300))
)


def served(
    hits: int, wrong: int = 0, *, text: str = "7", finish: str = "stop", sessions: int = 0, score: float = 0.8
) -> list[Served]:
    """`sessions`: the hits are of so many of them. The wrong ones come first."""
    rows = []
    for place, request in enumerate(WORK.requests[:150]):
        hit = place < hits
        if sessions and hit:
            request = replace(request, session=f"s{place % sessions}")
        answered = Answered(None, None, (), text if hit else "7", finish if hit else "stop", {}, 3, 1)
        rows.append(Served(request, answered, score if hit else None, not (hit and place < wrong)))
    return rows


@dataclass
class Bench:
    looked: list[Served] = field(default_factory=lambda: served(80))
    rows: list[Served] = field(default_factory=lambda: served(80))
    faster: Comparison = field(default_factory=lambda: summarise([20.0, 21.0, 20.5], [10.0, 10.4, 10.2]))
    fault: str = ""
    asked: list[str] = field(default_factory=list)
    allowed: list[Threshold] = field(default_factory=list)

    def fill(self, service: Service, tuning: Workload) -> None:
        self.asked.append("fill")
        if self.fault:
            raise EngineError(self.fault)
        assert service.cache.similar.limit == 0.05
        assert not {r.id for r in tuning.requests} & {r.id for r in Accepted.held_out.requests}

    def look(self, service: Service, half: Workload) -> list[Served]:
        self.asked.append("look")
        return self.looked

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
    held_out = WORK.split(0)[1]
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
    assert bench.allowed == [Threshold(0.5, 80, 0, evidence.bound)]


def test_the_loosest_score_that_holds_is_taken() -> None:
    mixed = served(150, 60, score=0.9)
    mixed = [replace(row, hit_score=row.hit_score if row.hit_right else 0.6) for row in mixed]
    found = certify(mixed, 0.05, ERROR)
    assert found is not None and 0.6 < found.score < 0.7 and (found.labelled, found.wrong) == (90, 0)


def test_a_strict_score_that_fails_ends_it() -> None:
    """Looser ones are not tested, however well they look: the sequence was fixed before."""
    rows = [replace(row, hit_score=0.99 if n < 75 else 0.7) for n, row in enumerate(served(150, 6))]
    assert certify(rows, 0.08, ERROR) is None
    assert certify(rows, 0.2, ERROR) is not None


@pytest.mark.parametrize(
    ("bench", "says", "asked"),
    [
        (Bench(looked=served(40)), "takes 69", ["fill", "look"]),
        (Bench(looked=served(0)), "0 would-be hits", ["fill", "look"]),
        (Bench(looked=served(100, 4)), "at no score", ["fill", "look"]),
        (Bench(rows=served(80, finish="length")), "ending_shift", ["fill", "look", "serve"]),
        (Bench(rows=served(80, text="")), "empty_answers", ["fill", "look", "serve"]),
        (
            Bench(faster=summarise([10.0, 11.0], [10.1, 10.4])),
            "not certainly faster",
            ["fill", "look", "serve", "compare"],
        ),
        (Bench(fault="it fell"), "it fell", ["fill"]),
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
