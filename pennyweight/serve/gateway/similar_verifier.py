"""Asks the served model whether two questions have the same answer, where the gate is not sure: one token, in both
orders, in the same conversation. What fails or takes long is no."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

from pennyweight.serve.gateway.ask import Ask, Stage, answer_of
from pennyweight.serve.gateway.similar_answer import said_in

GREY = (0.2, 0.9)  # scores of the gate that are verified
SECONDS = 2.0
KEPT_FIELDS = ("model", "chat_template_kwargs")
QUESTION = (
    "Two people ask:\n1. {first}\n2. {second}\nWould one and the same reply answer both of them fully and "
    "correctly? Answer with yes or no."
)
LOG = logging.getLogger("pennyweight.gateway")


class Verifier:
    def __init__(self, inner: Stage) -> None:
        self._inner = inner

    async def score(self, ask: Ask, kept: str, question: str, score: float) -> float:
        """The gate's score after the model was heard: unchanged where the gate is sure, nearer to 1 after two times
        yes, else 0. Bounds are earned on these scores, so that they hold whatever the model's word is worth."""
        low, high = GREY
        if not low <= score < high:
            return score
        try:
            both = asyncio.gather(self._yes(ask, kept, question), self._yes(ask, question, kept))
            agreed = all(await asyncio.wait_for(both, SECONDS))
        except Exception as error:  # whatever it is, the request goes on without a similar answer
            LOG.warning("two similar questions were not verified: %s", error or type(error).__name__)
            return 0.0
        return 1 - (1 - score) / 4 if agreed else 0.0

    async def _yes(self, ask: Ask, first: str, second: str) -> bool:
        body: dict[str, Any] = {name: ask.body[name] for name in KEPT_FIELDS if ask.body.get(name) is not None}
        asked = {"role": "user", "content": QUESTION.format(first=first, second=second)}
        body |= {"messages": [*ask.body["messages"][:-1], asked], "max_tokens": 1, "temperature": 0}
        plain = Ask.of(ask.path, body, json.dumps(body).encode(), ask.tenant, ask.pool)
        head, told = await answer_of(self._inner, replace(plain, priority=ask.priority, cache="no"))
        if head.refused:
            raise ValueError(f"the model refused: {told[:200].decode(errors='replace')}")
        return _is_yes(head.content_type, told)


def _is_yes(content_type: str, told: bytes) -> bool:
    return said_in(content_type, told).text.strip(" *\"'.").casefold() in ("yes", "y")
