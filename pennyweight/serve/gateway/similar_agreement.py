"""Would the kept answer have been right? Known once the model has answered, too: both say the same words or the same
JSON, or else the kept one is about as likely under this prompt as the fresh one is, by the model that is served."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pennyweight.errors import PennyweightError
from pennyweight.mixing.agreement import agree, asks_json
from pennyweight.serve.gateway.ask import Ask, Stage, answer_of
from pennyweight.serve.gateway.tenant import BATCH
from pennyweight.similarity import differences
from pennyweight.similarity.differences import Question

SHORT = 4  # words: of answers this short, other words say something else
TOLERANCE = 0.5  # nats a token by which the kept answer may be less likely
WORST = 6.0  # nats by which its least likely token may be less likely than the fresh one's least likely
PROMPT_FIELDS = ("messages", "tools", "chat_template_kwargs")  # what makes a prompt
LOG = logging.getLogger("pennyweight.gateway")


class Agreement:
    """Asks in the batch class, after everybody else."""

    def __init__(self, inner: Stage) -> None:
        self._inner = inner

    async def agrees(self, ask: Ask, kept: str, fresh: str) -> bool:
        """What cannot be found out counts as wrong."""
        form = compared(ask.body)
        if agree(kept, fresh, form):
            return True
        if form != "text" or min(len(kept.split()), len(fresh.split())) <= SHORT or says_another(kept, fresh):
            return False
        try:
            mean, worst = await self.less_likely(ask, kept, fresh)
            return mean <= TOLERANCE and worst <= WORST
        except (PennyweightError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            LOG.warning("whether two answers agree was not found out, and counts as no: %s", error)
            return False

    async def less_likely(self, ask: Ask, kept: str, fresh: str) -> tuple[float, float]:
        """Nats by which the kept answer is less likely under this prompt than the fresh one: a token on average, and of
        both least likely tokens."""
        fields = {name: ask.body[name] for name in PROMPT_FIELDS if ask.body.get(name) is not None}
        prompt = await self._tokens(ask, {**fields, "add_generation_prompt": True})
        mine, its = [await self._nats(ask, prompt, text) for text in (kept, fresh)]
        return sum(mine) / len(mine) - sum(its) / len(its), max(mine) - max(its)

    async def _nats(self, ask: Ask, prompt: Sequence[int], text: str) -> list[float]:
        """Of each token of an answer, under teacher forcing."""
        tokens = await self._tokens(ask, {"prompt": text, "add_special_tokens": False})
        scored = {
            "prompt": [*prompt, *tokens],
            "echo": True,
            "logprobs": 1,
            "max_tokens": 0,
            "temperature": 0,
            "logprob_start_len": len(prompt),
            "return_tokens_as_token_ids": True,
        }
        found = (await self._asked(ask, "/v1/completions", scored))["choices"][0]["logprobs"]["token_logprobs"]
        return [-float(value) for value in found[len(prompt) : len(prompt) + len(tokens)]]

    async def _tokens(self, ask: Ask, body: Mapping[str, Any]) -> list[int]:
        found: list[int] = (await self._asked(ask, "/tokenize", body))["tokens"]
        return found

    async def _asked(self, ask: Ask, path: str, body: Mapping[str, Any]) -> Any:
        named = {"model": ask.body.get("model"), **body} if ask.body.get("model") else dict(body)
        plain = Ask.of(path, named, json.dumps(named).encode(), ask.tenant, ask.pool)
        head, told = await answer_of(self._inner, replace(plain, priority=BATCH, cache="no"))
        if head.refused:
            raise ValueError(f"{path} was refused: {told[:200].decode(errors='replace')}")
        return json.loads(told)


def says_another(kept: str, fresh: str) -> bool:
    """Numbers, negation, opposites or names differ: one wrong fact in a long answer is unlikely in one token only."""
    one, other = Question(kept), Question(fresh)
    guards = (differences.other_numbers, differences.negation, differences.opposites, differences.other_names)
    return any(guard(one, other) for guard in guards)


def compared(body: Mapping[str, Any]) -> str:
    """How two answers to this request are compared (mixing/agreement.py)."""
    return "json" if asks_json(body) else "text"
