"""The choice between policies: certified before cheap, and one model alone where that is cheapest."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.errors import WorkloadError
from pennyweight.mixture import Limit
from pennyweight.search.policies import Costs, Labels, Policy, choose

COUNT, ERROR = 600, 0.05
COSTS = Costs(small=1.0, large=3.0)


def labels(seed: int, hard_share: float = 0.4) -> tuple[Labels, np.ndarray]:
    """The large model is always right; the small one fails on the hard requests. -> with which are hard"""
    hard = np.random.default_rng(seed).random(COUNT) < hard_share
    return Labels(np.where(hard, 0.0, 1.0), np.ones(COUNT)), hard


def knowing(name: str, *, asked: float = 0.0, part: float = 1.0, hard_share: float = 0.4) -> Policy:
    """Scores that tell hard requests from others."""
    halves = [labels(seed, hard_share)[1] + np.random.default_rng(seed + 9).random(COUNT) / 2 for seed in (0, 1)]
    return Policy(name, halves[0], halves[1], asked, part)


def blind(name: str) -> Policy:
    return Policy(name, np.random.default_rng(5).random(COUNT), np.random.default_rng(6).random(COUNT))


def test_the_cheapest_that_is_certified_is_chosen() -> None:
    held_out, hard = labels(1)
    found = choose([blind("blind"), knowing("router")], held_out, Limit(0.02), COSTS, error=ERROR)
    assert found.best is not None and found.best.policy.name == "router"
    chosen = found.best.certificate.chosen
    assert chosen is not None and 0.5 < chosen.kept <= 1 - hard.mean() + 0.02
    assert found.best.cost == pytest.approx(chosen.kept * 1.0 + (1 - chosen.kept) * 3.0)
    assert [candidate.cost for candidate in found.candidates] == sorted(c.cost for c in found.candidates)


def test_a_cascade_pays_for_both_answers() -> None:
    held_out, _ = labels(1)
    router, cascade = knowing("router"), knowing("cascade", asked=1.0)
    found = choose([cascade, router], held_out, Limit(0.02), COSTS, error=ERROR)
    costs = {candidate.policy.name: candidate.cost for candidate in found.candidates}
    assert costs["router"] < costs["cascade"] < COSTS.large
    early = choose([knowing("early", asked=1.0, part=0.1)], held_out, Limit(0.02), COSTS, error=ERROR / 2)
    assert costs["router"] < early.candidates[0].cost < costs["cascade"], "it was decided after a tenth of the answer"


def test_the_constant_wins_where_a_cascade_keeps_too_little() -> None:
    held_out, _ = labels(1, hard_share=0.8)
    few_kept = knowing("cascade", asked=1.0, hard_share=0.8)
    found = choose([few_kept], held_out, Limit(0.02), COSTS, error=ERROR)
    assert found.candidates[0].certificate.chosen is not None, "it is certified, and still no gain"
    assert found.best is None and found.candidates[0].cost > found.large_cost == COSTS.large


def test_what_is_not_certified_costs_what_the_large_model_does() -> None:
    held_out, _ = labels(1, hard_share=0.9)
    all_alike = Policy("all alike", np.zeros(COUNT), np.zeros(COUNT))
    found = choose([all_alike], held_out, Limit(0.02), COSTS, error=ERROR)
    assert found.best is None and found.candidates[0].cost == COSTS.large


def test_policies_share_the_error() -> None:
    held_out, _ = labels(1)
    alone = choose([knowing("a")], held_out, Limit(0.02), COSTS, error=ERROR)
    both = choose([knowing("a"), knowing("b")], held_out, Limit(0.02), COSTS, error=ERROR)
    assert alone.candidates[0].certificate.error == ERROR
    assert {candidate.certificate.error for candidate in both.candidates} == {ERROR / 2}


def test_too_few_requests_are_refused_with_their_number() -> None:
    few = Labels(np.ones(100), np.ones(100))
    policy = Policy("any", np.zeros(100), np.zeros(100))
    with pytest.raises(WorkloadError, match=r"takes 299 independent labelled requests .* 100 are there"):
        choose([policy], few, Limit(0.01, "kept"), COSTS, error=ERROR)
    copies = Labels(np.ones(COUNT), np.ones(COUNT), ["one"] * COUNT)
    with pytest.raises(WorkloadError, match="and 1 are there"):
        choose([policy], copies, Limit(0.05), COSTS, error=ERROR)
