"""What a judge's first token says."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from pennyweight.errors import EndpointError
from pennyweight.measure.judge import UNKNOWN, as_good, yes_share
from pennyweight.workload import Request


def said(**shares: float) -> dict[str, Any]:
    tops = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
    return {"choices": [{"logprobs": {"content": [{"top_logprobs": tops}]}}]}


def test_all_spellings_of_yes_and_no_count() -> None:
    assert yes_share(said(**{" Yes": 0.3, "yes": 0.3, "**No": 0.2, "Maybe": 0.2})) == pytest.approx(0.75)
    assert yes_share(said(Maybe=0.9)) == UNKNOWN
    with pytest.raises(EndpointError, match="cannot be a judge"):
        yes_share({"choices": [{"message": {"content": "yes"}, "logprobs": None}]})


class Judge:
    """Prefers the second place, and an answer that says 4."""

    model = "judge"

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        text = body["messages"][0]["content"]
        if "too long" in text:
            fault = EndpointError("too long")
            fault.status = 400
            raise fault
        first, second = text.split("Answer 1:")[1].split("Answer 2:")[0], text.split("Answer 2:")[1]
        yes = 0.6 + 0.3 * ("4" in second) - 0.3 * ("4" in first)
        return said(yes=yes, no=1 - yes)


def test_both_orders_are_asked_so_that_a_place_counts_for_nothing() -> None:
    request = Request("a", "a", 8, messages=({"role": "user", "content": "Two and two?"},))

    def judged(reference: str, answer: str) -> float:
        return asyncio.run(as_good(Judge(), request, reference, answer))  # type: ignore[arg-type]

    assert judged("4", "5") == pytest.approx(0.2) and judged("5", "4") == pytest.approx(0.8)
    assert judged("4", "four: 4") == pytest.approx(0.5)
    assert judged("4", "too long") == UNKNOWN
