"""What kind a request is of, and what its kind or cluster lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pennyweight.errors import UsageError
from pennyweight.mixing.kinds import NEVER, cluster_scores, fit_clusters, fit_kinds, kind_scores, request_kind
from pennyweight.mixture import ClusterLosses, KindLosses, Rule


def chat(system: str | None, text: str, **fields: Any) -> dict[str, Any]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*first, {"role": "user", "content": text}], **fields}


def test_the_kind_is_what_stands_beside_the_question() -> None:
    kinds = [
        request_kind(body)
        for body in (
            chat("Extract.", "a"),
            chat("Extract.", "b", max_tokens=8),
            chat("Solve.", "a"),
            chat("Extract.", "a", response_format={"type": "json_object"}),
            chat("Extract.", "a", tools=[{"type": "function", "function": {"name": "f"}}]),
        )
    ]
    assert kinds[0] == kinds[1] and len(set(kinds)) == 4
    assert request_kind(chat(None, "a")) == request_kind(chat(None, "b")) == request_kind({"prompt": "x"}) == ""


@pytest.mark.parametrize("messages", [None, "text", 7, [None, 3], [{"role": "system"}], [{"role": ["system"]}]])
def test_whatever_a_client_sends_has_a_kind(messages: Any) -> None:
    assert isinstance(request_kind({"messages": messages, "tools": 3}), str)


def test_the_same_kind_in_other_spellings() -> None:
    parts = [{"type": "text", "text": "Ex"}, {"type": "text", "text": "tract."}]
    plain = request_kind(chat("Extract.", "a"))
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert request_kind({"messages": [{"role": "system", "content": parts}]}) == plain
    assert request_kind(chat("Extract.", "a", response_format={"type": "text"})) == plain
    assert request_kind(chat("Extract.", "a", tools=tools, tool_choice="none")) == plain
    assert request_kind(chat("Extract.", "a", tools=tools, tool_choice="auto")) != plain
    assert request_kind(chat("E.", "a", tools=tools)) != request_kind(
        chat("E.", "a", tools=tools, tool_choice="required")
    )


def test_damaged_clusters_are_refused() -> None:
    for centres, losses in (((), ()), (((1.0,), (1.0, 2.0)), (0.0, 0.0)), (((1.0,), (2.0,)), (0.0,))):
        with pytest.raises(UsageError, match="damaged"):
            ClusterLosses(centres, losses)
    with pytest.raises(UsageError, match="embeddings of 1 numbers and gets 4"):
        cluster_scores(ClusterLosses(((1.0,),), (0.0,)), np.zeros((2, 4)))


def test_the_safest_kind_comes_first_and_an_unknown_one_never() -> None:
    kinds = ["easy"] * 50 + ["hard"] * 50 + ["rare"]
    small = np.array([1.0] * 49 + [0.0] + [0.0] * 50 + [1.0])
    scores = kind_scores(fit_kinds(kinds, small, np.ones(101)), ["easy", "hard", "rare", "new"])
    assert scores[0] < scores[2] < scores[1] + 0.6 and scores[0] < scores[1] and scores[3] == NEVER


def test_clusters_lose_what_was_seen_near_them() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(200) < 0.5
    embeddings = generator.normal(scale=0.05, size=(200, 4)) + hard[:, None]
    fitted = fit_clusters(embeddings, 1.0 - hard, np.ones(200))
    near = cluster_scores(fitted, np.array([[0.0] * 4, [1.0] * 4]))
    assert near[0] < 0.2 and near[1] > 0.9


def test_a_rule_decides_by_one_thing() -> None:
    kinds = KindLosses((("", 0.1),))
    assert Rule(0.0, kinds=kinds).name == "kind"
    with pytest.raises(UsageError, match="nothing to decide by"):
        Rule(0.0)
    with pytest.raises(UsageError, match="kind and cascade"):
        Rule(0.0, kinds=kinds, cascade=object())  # type: ignore[arg-type]
