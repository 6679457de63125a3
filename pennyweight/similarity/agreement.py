"""Would the kept answer have been right? Known once the model has answered, too: both say the same words, the same JSON
or the same number, or else the kept one is about as likely under this prompt as the fresh one is, by the model that is
served. The gateway asks that while it serves, and a proof when it judges hits."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pennyweight.errors import PennyweightError
from pennyweight.mixing.agreement import agree, asks_json
from pennyweight.similarity import differences
from pennyweight.similarity.differences import Question

Post = Callable[[str, Mapping[str, Any]], Awaitable[Any]]  # path and body -> the parsed answer

SHORT = 4  # words: of answers this short, other words say something else
TOLERANCE = 0.5  # nats a token by which the kept answer may be less likely
WORST = 6.0  # nats by which its least likely token may be less likely than the fresh one's least likely
PROMPT_FIELDS = ("messages", "tools", "chat_template_kwargs")  # what makes a prompt
FAULTS = (PennyweightError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)
LOG = logging.getLogger("pennyweight.gateway")


async def agrees(body: Mapping[str, Any], kept: str, fresh: str, post: Post, *, compared: str = "") -> bool:
    """Of two answers to the request `body`; what cannot be found out counts as wrong. `compared` as in
    mixing/agreement.py; empty: as the request asks, JSON or text."""
    form = compared or compared_by(body)
    if agree(kept, fresh, form):
        return True
    if form != "text" or min(len(kept.split()), len(fresh.split())) <= SHORT or says_another(kept, fresh):
        return False
    try:
        mean, worst = await less_likely(body, kept, fresh, post)
        return mean <= TOLERANCE and worst <= WORST
    except FAULTS as error:
        LOG.warning("whether two answers agree was not found out, and counts as no: %s", error)
        return False


async def less_likely(body: Mapping[str, Any], kept: str, fresh: str, post: Post) -> tuple[float, float]:
    """Nats by which the kept answer is less likely under this prompt than the fresh one: a token on average, and of
    both least likely tokens."""
    fields = {name: body[name] for name in PROMPT_FIELDS if body.get(name) is not None}
    prompt = await _tokens(post, {**fields, "add_generation_prompt": True})
    mine, its = [await _nats(post, prompt, text) for text in (kept, fresh)]
    return sum(mine) / len(mine) - sum(its) / len(its), max(mine) - max(its)


async def _nats(post: Post, prompt: Sequence[int], text: str) -> list[float]:
    """Of each token of an answer, under teacher forcing."""
    tokens = await _tokens(post, {"prompt": text, "add_special_tokens": False})
    scored = {
        "prompt": [*prompt, *tokens],
        "echo": True,
        "logprobs": 1,
        "max_tokens": 0,
        "temperature": 0,
        "logprob_start_len": len(prompt),
        "return_tokens_as_token_ids": True,
    }
    found = (await post("/v1/completions", scored))["choices"][0]["logprobs"]["token_logprobs"]
    return [-float(value) for value in found[len(prompt) : len(prompt) + len(tokens)]]


async def _tokens(post: Post, body: Mapping[str, Any]) -> list[int]:
    found: list[int] = (await post("/tokenize", body))["tokens"]
    return found


def says_another(kept: str, fresh: str) -> bool:
    """Numbers, negation, opposites or names differ: one wrong fact in a long answer is unlikely in one token only."""
    one, other = Question(kept), Question(fresh)
    guards = (differences.other_numbers, differences.negation, differences.opposites, differences.other_names)
    return any(guard(one, other) for guard in guards)


def compared_by(body: Mapping[str, Any]) -> str:
    return "json" if asks_json(body) else "text"
