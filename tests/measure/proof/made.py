"""Pairs made by hand: a reference of equal log-probabilities, and a candidate that loses what a test says."""

from __future__ import annotations

from typing import Any

from pennyweight.evidence import Reference
from pennyweight.measure.proof.asking import Answered, Scored
from pennyweight.measure.proof.pair import Continued, Pair
from pennyweight.measure.proof.units import Units
from pennyweight.workload import Request

LENGTH = 20
OWN = -0.5


def reference(number: int, length: int = LENGTH, **more: Any) -> Reference:
    answer = tuple(range(100, 100 + length))
    settings = {"finish": "length", **more}
    count = length + (settings.get("end") is not None)
    tops = tuple(((token, OWN), (7, -2.0), (8, -3.0)) for token in (*answer, settings.get("end"))[:count])
    return Reference(
        f"r{number}", (1, 2, 3), answer, "text", (OWN,) * count, (True,) * length, **{"tops": tops, **settings}
    )


def pair(
    number: int,
    nats: float = 0.0,
    *,
    unit: str | None = None,
    length: int = LENGTH,
    answered: dict[str, Any] | None = None,
    decoded: float = 0.0,
    request: Request | None = None,
    right: bool | None = None,
    continued: tuple[Continued, ...] = (),
    tops: tuple[Any, ...] | None = None,
    **more: Any,
) -> Pair:
    """`nats` a token are lost by scoring, `decoded` a token more on the decode path."""
    ours = reference(number, length, **more)
    scored = OWN - nats
    given = {
        "prompt": ours.prompt,
        "tokens": ours.answer,
        "logprobs": (scored - decoded,) * length,
        "text": "text",
        "finish": ours.finish,
        "message": {},
        **(answered or {}),
    }
    asked = request or Request(f"r{number}", f"s{number}", length, prompt=f"prompt {number}")
    return Pair(
        asked,
        unit or f"s{number}",
        ours,
        Answered(**given),
        Scored((scored,) * len(ours.logprobs), tops or tuple(ours.tops)),
        continued,
        right,
    )


def units(pairs: list[Pair]) -> Units:
    of = {one.request.id: one.unit for one in pairs}
    return Units(of, sum(one.tokens for one in pairs) / len(set(of.values())))
