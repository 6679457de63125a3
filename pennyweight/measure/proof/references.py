"""The baseline's answers to the held-out requests: what a candidate is proven against."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from pennyweight.errors import EndpointError, WorkloadError
from pennyweight.evidence import Reference
from pennyweight.measure.client import Client, Sampling, connect
from pennyweight.measure.proof import asking
from pennyweight.measure.proof.asking import Answered, Scored
from pennyweight.measure.proof.forms import keeps_form
from pennyweight.measure.proof.sampling import SAMPLES
from pennyweight.measure.replay import Progress, no_progress
from pennyweight.measure.scorers import is_right
from pennyweight.serve.opening import Endpoint
from pennyweight.workload import Request

ANSWER_CONCURRENCY = 32


def references(
    endpoint: Endpoint,
    requests: Sequence[Request],
    progress: Progress = no_progress,
    *,
    keep: Callable[[Reference], None] = lambda _: None,
) -> list[Reference]:
    """The greedy answers with their scores. `keep` receives each one at once, so that an interruption loses none.

    Raises `WorkloadError` for a request that gets an empty answer: every candidate would agree on nothing."""

    async def run() -> list[Reference]:
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

            async def one(request: Request) -> Reference:
                made = await _reference(client, request)
                keep(made)
                return made

            return await asking.each(requests, one, ANSWER_CONCURRENCY, progress)

    return asyncio.run(run())


async def _reference(client: Client, request: Request) -> Reference:
    answered = await asking.answer(client, request)
    if answered.prompt is None or answered.tokens is None:
        raise EndpointError(
            "This server returns no token ids, so its answers cannot be references: serve the baseline with `pw serve`."
        )
    if not answered.tokens:
        raise WorkloadError(
            f"The unmodified model gives an empty answer to request {request.id!r}, so nothing can be compared: "
            "take the request out, or mend its prompt or the model's chat template."
        )
    scored, end = await _scored(client, request, answered.prompt, answered)
    return Reference(
        request.id,
        answered.prompt,
        answered.tokens,
        answered.text,
        scored.logprobs,
        tuple(tops[0][0] == token for tops, token in zip(scored.tops, answered.tokens, strict=False)),
        is_right(answered.text, request) if request.labelled else None,
        finish=answered.finish,
        end=end,
        tops=scored.tops,
        valid=keeps_form(request, answered) if request.has_form else None,
        samples=await samples(client, request),
    )


async def _scored(
    client: Client, request: Request, prompt: tuple[int, ...], answered: Answered
) -> tuple[Scored, int | None]:
    """The answer's scores; where the model ended it, with the end token, which is what it chose after the answer."""
    tokens = answered.tokens or ()
    if answered.finish != "stop" or request.fields.get("stop") or request.has_form:  # there something else ended it
        return await asking.score(client, prompt, tokens), None
    # Any token will do as the last one: the likeliest at its place is the end token.
    scored = await asking.score(client, prompt, (*tokens, tokens[-1]))
    end, logprob = scored.tops[-1][0]
    return replace(scored, logprobs=(*scored.logprobs[:-1], logprob)), end


async def samples(client: Client, request: Request) -> tuple[tuple[int, ...], ...]:
    """Sampled answers, each with a seed of its own, for a request that asks for sampling."""
    if not request.fields.get("temperature"):
        return ()
    drawn = [await asking.answer(client, _seeded(request, 1 + number), Sampling()) for number in range(SAMPLES)]
    return tuple(one.tokens or () for one in drawn)


def _seeded(request: Request, seed: int) -> Request:
    """One answer with this seed: a request's own would give the same answer each time."""
    return replace(request, fields={**request.fields, "seed": seed, "n": 1})
