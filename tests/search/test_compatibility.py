"""The table of what works together: whole, true to its document, and obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight.search import compatibility
from pennyweight.search.compatibility import Pair
from pennyweight.serve import catalogue

LEVERS = {
    "caching": {"enable_prefix_caching": True},
    "small cache": {"kv_cache_dtype": "q8_0"},
    "smaller cache": {"kv_cache_dtype": "q4_0"},
    "draft": {"speculative_method": "draft_model", "draft_model": "<a draft>"},
}
KNOWN = (Pair("some", "caching", "draft", "broken", 0.2, 1.0, "it agrees 0.20"),)


def test_the_document_is_what_was_measured() -> None:
    document = Path(__file__).parents[2] / "docs" / "compatibility.md"
    assert document.read_text(encoding="utf-8") == compatibility.as_markdown()


def test_of_an_engine_that_was_measured_every_pair_was() -> None:
    assert {"openvino", "llamacpp"} <= compatibility.measured_on().keys()
    measured = {(pair.engine, pair.first, pair.second) for pair in compatibility.pairs()}
    wanted = {
        (engine, *pair)
        for engine in compatibility.measured_on()
        for pair in compatibility.combinable(catalogue.offer(engine).presets)
    }
    assert wanted == measured
    assert {pair.verdict for pair in compatibility.pairs()} <= set(compatibility.VERDICTS)


def test_levers_that_set_the_same_thing_are_no_pair() -> None:
    assert ("small cache", "smaller cache") not in compatibility.combinable(LEVERS)
    assert ("caching", "draft") in compatibility.combinable(LEVERS)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"enable_prefix_caching": True, "speculative_method": "draft_model", "draft_model": "/some/where"}, True),
        ({"enable_prefix_caching": False, "speculative_method": "draft_model", "draft_model": "/some/where"}, False),
        ({"enable_prefix_caching": True, "speculative_method": "ngram"}, False),
        ({"enable_prefix_caching": True}, False),
    ],
)
def test_a_broken_pair_is_refused_with_the_evidence(settings: dict[str, object], refused: bool) -> None:
    reason = compatibility.conflict("some", settings, LEVERS, KNOWN)
    assert (reason is not None) == refused
    assert not refused or ("docs/compatibility.md" in str(reason) and "0.20" in str(reason))
    assert compatibility.conflict("other", settings, LEVERS, KNOWN) is None
