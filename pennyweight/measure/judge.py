"""A model as a judge: is one answer at least as good as another? It says yes or no, and how sure it is of that is read
from the log-probabilities of its first token. Both orders are asked, because judges prefer a place (Zheng et al. 2023,
arxiv.org/abs/2306.05685). What it says is an opinion: search/judging.py corrects it by labels."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from pennyweight.errors import EndpointError
from pennyweight.measure.client import Client
from pennyweight.workload import Request

TOPS = 20  # alternatives: the most that OpenAI's API gives
UNKNOWN = 0.5
QUESTION = """Compare two answers to the same request.

Request:
{request}

Answer 1:
{first}

Answer 2:
{second}

Is Answer 2 at least as correct and helpful as Answer 1? Reply with yes or no."""


async def as_good(client: Client, request: Request, reference: str, answer: str) -> float:
    """0..1: how likely `answer` is as good as `reference`, by the judge behind the client. A request that it cannot
    take (too long for its context) is `UNKNOWN`."""
    asked = _asked_of(request)
    second, first = await asyncio.gather(_yes(client, asked, reference, answer), _yes(client, asked, answer, reference))
    return (second + 1 - first) / 2


async def _yes(client: Client, request: str, first: str, second: str) -> float:
    content = QUESTION.format(request=request, first=first or "(empty)", second=second or "(empty)")
    body = {
        "model": client.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": TOPS,
    }
    try:
        found = await client.post("/v1/chat/completions", body)
    except EndpointError as error:
        if error.status == 400:
            return UNKNOWN
        raise
    return yes_share(found)


def yes_share(found: Mapping[str, Any]) -> float:
    """Of the first token of an answer: the probability of yes against no, by all their spellings."""
    try:
        tops = found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    except (LookupError, TypeError):
        raise EndpointError("This server gives no log-probabilities, so its model cannot be a judge.") from None
    said = {"yes": 0.0, "no": 0.0}
    for top in tops:
        word = str(top["token"]).strip(' \n.*"').casefold()
        if word in said:
            said[word] += math.exp(top["logprob"])
    both = sum(said.values())
    return said["yes"] / both if both else UNKNOWN


def _asked_of(request: Request) -> str:
    """A chat's messages one after the other, or the prompt."""
    return "\n\n".join(str(message.get("content") or "") for message in request.messages) or request.prompt
