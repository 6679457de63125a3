"""What a proof asks of an endpoint: answers, continuations from the middle of an answer, and scores of given tokens.

Log-probabilities are natural. Token ids need `return_token_ids` and `return_tokens_as_token_ids`, which vLLM's server
has too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pennyweight.errors import CannotScore, EndpointError, PennyweightError
from pennyweight.evidence import Reference
from pennyweight.generation import SCORED_TOPS
from pennyweight.measure.client import Client, Sampling, body_of
from pennyweight.measure.replay import Progress
from pennyweight.mixing.cascade import read_logprobs
from pennyweight.workload import Request

GREEDY = Sampling(temperature=0.0)
NOT_OFFERED = (400, 404, 405, 415, 422, 501)  # HTTP statuses that say that a server does not do this

T = TypeVar("T")
R = TypeVar("R")
Tops = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Answered:
    """One generated answer: `logprobs` are those of its `tokens` as the serving path reported them; empty where the
    server reports none. `finish` is OpenAI's finish_reason. A server that gives no token ids has None in their places,
    and its usage counts them: `prompt_count` and `count`."""

    prompt: tuple[int, ...] | None
    tokens: tuple[int, ...] | None
    logprobs: tuple[float, ...]
    text: str
    finish: str
    message: Mapping[str, Any]
    prompt_count: int = 0
    count: int = 0
    margins: tuple[float, ...] = ()  # of its tokens to the next likeliest, where alternatives were asked for

    def __post_init__(self) -> None:
        for name, tokens in (("prompt_count", self.prompt), ("count", self.tokens)):
            if tokens is not None:
                object.__setattr__(self, name, len(tokens))


@dataclass(frozen=True)
class Scored:
    """Given tokens under teacher forcing: the log-probability of each, and the likeliest tokens at its place."""

    logprobs: tuple[float, ...]
    tops: tuple[Tops, ...]


async def answer(client: Client, request: Request, sampling: Sampling = GREEDY, *, tops: int = 0) -> Answered:
    """The whole answer to a request, with its prompt's and its own token ids, and so many alternatives."""
    path, body = body_of(request, client.model, sampling)
    body |= {"return_token_ids": True, "logprobs": True if request.messages else tops}
    if tops and request.messages:
        body["top_logprobs"] = tops
    return answered(await client.post(path, body))


async def continuation(client: Client, tokens: Sequence[int], count: int) -> Answered:
    """Up to `count` greedy tokens after these."""
    body = {
        "model": client.model,
        "prompt": list(tokens),
        "max_tokens": count,
        "temperature": 0.0,
        "logprobs": 0,
        "return_token_ids": True,
    }
    return answered(await client.post("/v1/completions", body))


async def score(client: Client, prompt: Sequence[int], tokens: Sequence[int]) -> Scored:
    """Teacher forcing over `tokens` after the prompt."""
    if not tokens:
        return Scored((), ())
    body = {
        "model": client.model,
        "prompt": [*prompt, *tokens],
        "echo": True,
        "logprobs": SCORED_TOPS,
        "max_tokens": 0,
        "temperature": 0.0,
        "logprob_start_len": len(prompt),
        "return_tokens_as_token_ids": True,
    }
    found = _choice(await client.post("/v1/completions", body), 0).get("logprobs")
    if not found or not found.get("token_logprobs"):
        raise CannotScore("This server scores no prompts (echo with logprobs), so fidelity cannot be measured on it.")
    places = slice(len(prompt), len(prompt) + len(tokens))
    try:
        own = tuple(float(value) for value in found["token_logprobs"][places])
        tops = tuple(_tops(row) for row in found["top_logprobs"][places])
    except (KeyError, TypeError, ValueError):
        raise CannotScore(
            "This server's scores lack log-probabilities, so fidelity cannot be measured on it."
        ) from None
    if len(own) != len(tokens) or len(tops) != len(tokens) or not all(tops):
        raise CannotScore("This server's scores lack places, so fidelity cannot be measured on it.")
    return Scored(own, tops)


async def can_score(client: Client, reference: Reference) -> bool:
    """Does this server score given tokens? One that refuses to, or names tokens by their text, does not.

    Raises `EndpointError` for a server that is not there or has failed."""
    try:
        await score(client, reference.prompt, reference.answer[:1])
    except EndpointError as error:
        if not (isinstance(error, CannotScore) or error.status in NOT_OFFERED):
            raise
        return False
    return True


async def each(items: Iterable[T], work: Callable[[T], Awaitable[R]], width: int, progress: Progress) -> list[R]:
    """Results in the order of the items, at most `width` at a time; the first failure ends all."""
    todo = list(enumerate(items))
    total, results = len(todo), {}
    waiting = iter(todo)

    async def run() -> None:
        for index, item in waiting:
            results[index] = await work(item)
            progress(len(results), total)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(width, total)):
                group.create_task(run())
    except* PennyweightError as faults:
        first = faults
    else:
        return [results[index] for index in range(total)]
    raise _first(first)


def _first(group: BaseExceptionGroup[PennyweightError]) -> PennyweightError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def answered(body: Mapping[str, Any], index: int = 0) -> Answered:
    choice, usage = _choice(body, index), body.get("usage") or {}
    message = choice.get("message") or {}
    prompt: list[int] | None = choice.get("prompt_token_ids") or body.get("prompt_token_ids")
    tokens: list[int] | None = choice.get("token_ids")
    return Answered(
        None if prompt is None else tuple(prompt),
        None if tokens is None else tuple(tokens),
        _own_logprobs(choice.get("logprobs")),
        (message.get("content") if message else choice.get("text")) or "",
        choice.get("finish_reason") or "",
        message,
        prompt_count=usage.get("prompt_tokens", 0),
        count=usage.get("completion_tokens", 0),
        margins=tuple(read_logprobs(choice.get("logprobs"))[1]),
    )


def _choice(body: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = body["choices"][index]
    except (KeyError, IndexError, TypeError):
        raise EndpointError("The server's answer holds no choices: is it an OpenAI endpoint?") from None
    return found


def _own_logprobs(found: Mapping[str, Any] | None) -> tuple[float, ...]:
    if not found:
        return ()
    if "content" in found:  # a chat's
        return tuple(float(row["logprob"]) for row in found["content"] or ())
    return tuple(float(value) for value in found.get("token_logprobs") or ())


def _tops(row: Mapping[str, float]) -> Tops:
    """From {"token_id:7": -0.1, …}, the likeliest first."""
    try:
        pairs = [(int(name.removeprefix("token_id:")), float(value)) for name, value in row.items()]
    except ValueError:
        raise CannotScore(
            "This server names scored tokens by their text, which can be ambiguous: it must take "
            "return_tokens_as_token_ids, as `pw serve` and vLLM do."
        ) from None
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:SCORED_TOPS])
