"""Evidence that was edited to ask for less is refused before anything is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pennyweight import codec
from pennyweight.budget import Budget, Limit, LimitVerdict, Outcome, Verdict
from pennyweight.deployment import Deployment
from pennyweight.errors import GateFailed
from pennyweight.evidence import Evidence, Reference, SearchOutcome
from pennyweight.hardware import detect
from pennyweight.model import Lineage
from pennyweight.search.similar_search import TTL_SECONDS
from pennyweight.search.verify import _refuse_edited, _refuse_other_policy
from pennyweight.service import CachePolicy, Service, SimilarPolicy
from pennyweight.similar_evidence import SimilarEvidence
from pennyweight.workload import Request

BUDGET = Budget(max_added_nats=0.02)
NONE = Budget(max_added_nats=None)
ACCEPTED = Verdict((LimitVerdict(Limit("added_nats", 0.02), 0.01, Outcome.ACCEPT, "held"),))


def evidence() -> Evidence:
    requests = tuple(Request(f"r{n}", f"s{n}", 4, prompt="say") for n in range(3))
    references = tuple(Reference(one.id, (1,), (2,), "x", (-0.5,), (True,)) for one in requests)
    return Evidence(
        SearchOutcome.ACCEPT,
        "id",
        "model",
        Lineage("model", {}),
        {"budget": codec.plain(BUDGET)},
        BUDGET,
        1,
        "tasks",
        "w",
        6,
        Deployment("scripted", "/m", "id", "BF16"),
        ACCEPTED,
        detect(),
        held_out=requests,
        references=references,
    )


def test_what_was_written_passes() -> None:
    _refuse_edited(evidence())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"budget": Budget(max_added_nats=0.5)}, "budget"),
        ({"budget": Budget(max_added_nats=None)}, "budget"),
        ({"budget": NONE, "question": {"budget": codec.plain(NONE)}}, "differ in added_nats"),
        ({"limits": Verdict()}, "differ in added_nats"),
        ({"references": ()}, "references of 3"),
        ({"held_out": ()}, "references"),
    ],
)
def test_what_was_edited_does_not(changes: dict[str, object], says: str) -> None:
    with pytest.raises(GateFailed, match=says):
        _refuse_edited(replace(evidence(), **changes))  # type: ignore[arg-type]


LIMITED = SimilarPolicy(0.05, ttl_seconds=TTL_SECONDS)


def with_similar(policy: SimilarPolicy = LIMITED, requests: int = 3, asked: float = 0.05) -> Evidence:
    made = evidence()
    return replace(
        made, question={**made.question, "similar": asked}, similar=SimilarEvidence(policy, requests=requests)
    )


def serving(policy: SimilarPolicy) -> Service:
    cache = CachePolicy("answers.db", similar=policy)
    return Service.of(Deployment("scripted", "/m", "id", "BF16"), cache=cache)


def test_the_policy_of_similar_answers_is_the_one_that_was_asked_for() -> None:
    _refuse_other_policy(with_similar(), serving(LIMITED))
    for policy in (replace(LIMITED, limit=0.6), replace(LIMITED, confidence=0.0), replace(LIMITED, explored=0.001)):
        with pytest.raises(GateFailed, match="not what was"):
            _refuse_other_policy(with_similar(), serving(policy))  # service.json alone
        with pytest.raises(GateFailed, match="not what was"):
            _refuse_other_policy(with_similar(policy), serving(policy))  # and evidence.json
    with pytest.raises(GateFailed, match="lacks held-out requests"):
        _refuse_other_policy(with_similar(requests=9), serving(LIMITED))
    with pytest.raises(GateFailed, match="not what was"):
        _refuse_other_policy(evidence(), serving(LIMITED))
