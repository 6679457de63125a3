"""Quality of a running service: task score and fidelity of a candidate against a baseline, paired per request.

Fidelity teacher-forces the candidate over the *baseline's* answers. (The likelihood of the candidate's own answers
under the baseline would be a poor gate: repetitive loops score well.)
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pennyweight.budget import Budget, Limit, Outcome, Verdict
from pennyweight.errors import EndpointError, PennyweightError, WorkloadError
from pennyweight.evidence import Reference
from pennyweight.measure.client import Client, Sampling, body_of, connect
from pennyweight.measure.replay import Progress, no_progress
from pennyweight.measure.scorers import is_right
from pennyweight.measure.statistics import by_session, lost_share, mean_interval
from pennyweight.measurement import Measurement, Quantity, collect
from pennyweight.serve.opening import Endpoint
from pennyweight.workload import Request, Workload

GREEDY = Sampling(temperature=0.0)
ANSWER_CONCURRENCY = 32
SCORE_CONCURRENCY = 2
FIRST_LOOK = 16  # requests; each further look doubles them
CONSISTENCY = Limit("self_agreement", 0.90, floor=True)  # openvino with an 8-bit cache: F16 0.981, Q8_0 0.956
MIN_SESSIONS = 8  # below this a bootstrap interval says nothing

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Pair:
    """One request on both: mean added nats per answer token, share of agreeing first choices, both task scores."""

    request_id: str
    session: str
    added_nats: float
    agreement: float
    baseline_right: bool | None
    candidate_right: bool | None


@dataclass(frozen=True)
class Evaluation:
    """The measurement over all evaluated requests, and the verdict on the quality limits."""

    measurement: Measurement
    verdict: Verdict


def references(
    endpoint: Endpoint,
    requests: Sequence[Request],
    progress: Progress = no_progress,
    *,
    keep: Callable[[Reference], None] = lambda _: None,
) -> list[Reference]:
    """The baseline's greedy answers and their scores, which candidates are compared with. `keep` receives each one at
    once, so that an interruption loses none."""

    async def run() -> list[Reference]:
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

            async def one(request: Request) -> Reference:
                prompt, answer, text = await _answer(client, request)
                logprobs, agreed = await _score(client, prompt, answer)
                right = is_right(text, request) if request.labelled else None
                made = Reference(request.id, prompt, answer, text, logprobs, agreed, right)
                keep(made)
                return made

            return await _gather(requests, one, ANSWER_CONCURRENCY, progress)

    return asyncio.run(run())


def pairs(
    endpoint: Endpoint,
    requests: Sequence[Request],
    held_against: Mapping[str, Reference],
    *,
    task_score: bool,
    progress: Progress = no_progress,
) -> list[Pair]:
    """Score candidates on the baseline's answers; with `task_score`, its own answers to labelled requests as well."""

    async def run() -> list[Pair]:
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

            async def one(request: Request) -> Pair:
                return await _pair(client, request, held_against[request.id], task_score=task_score)

            width = ANSWER_CONCURRENCY if task_score else SCORE_CONCURRENCY
            return await _gather(requests, one, width, progress)

    return asyncio.run(run())


def agreements(
    endpoint: Endpoint, held_against: Sequence[Reference], progress: Progress = no_progress
) -> list[tuple[bool, ...]]:
    """For each answer: at which tokens the endpoint, teacher-forced over it, has the same first choice."""

    async def run() -> list[tuple[bool, ...]]:
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

            async def one(reference: Reference) -> tuple[bool, ...]:
                return (await _score(client, reference.prompt, reference.answer))[1]

            return await _gather(held_against, one, SCORE_CONCURRENCY, progress)

    return asyncio.run(run())


def evaluate(
    endpoint: Endpoint,
    workload: Workload,
    held_against: Mapping[str, Reference],
    budget: Budget,
    *,
    progress: Progress = no_progress,
) -> Evaluation:
    """Look at more and more requests until every quality limit is settled or the workload is used up.

    Each look may err, so the allowed error is shared between the looks that there can be (Bonferroni).
    """
    # Shuffled, because files are often sorted by kind and the first look must see all kinds.
    requests = [r for r in workload.shuffled().requests if r.id in held_against]
    if not requests:
        raise WorkloadError(
            f"No request of {workload.name!r} has a baseline answer: was it made from another workload?"
        )
    looks = look_sizes(len(requests))
    confidence = 1 - (1 - budget.confidence) / len(looks)
    with_tasks = budget.max_degradation is not None or any(r.labelled for r in requests)
    consistency = measure_consistency(endpoint, requests[: looks[0]])
    done: list[Pair] = []
    for size in looks:
        fresh = requests[len(done) : size]
        done += pairs(
            endpoint, fresh, held_against, task_score=with_tasks, progress=_shifted(progress, len(done), len(requests))
        )
        measurement = measure_pairs(endpoint.base_url, done, confidence).joined(consistency)
        verdict = judge(budget, measurement)
        if verdict.outcome is not Outcome.INCONCLUSIVE:
            break
    return Evaluation(measurement, verdict)


def judge(budget: Budget, measurement: Measurement) -> Verdict:
    """Judge the budget's quality limits, and whether generation is consistent with scoring."""
    return budget.judge_limits(measurement, (*budget.quality_limits, CONSISTENCY))


def measure_consistency(endpoint: Endpoint, requests: Sequence[Request]) -> Measurement:
    """Does what is generated agree with what is scored? The share of its own greedy answers' tokens that the endpoint,
    teacher-forced over them, would choose again. Batching, key-value precision and prefix caches act on generation
    only, so fidelity alone would not see them break."""

    async def run() -> list[float]:
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

            async def one(request: Request) -> float:
                prompt, answer, _ = await _answer(client, request)
                _, agreed = await _score(client, prompt, answer)
                return float(np.mean(agreed)) if agreed else 1.0

            return await _gather(requests, one, ANSWER_CONCURRENCY, no_progress)

    shares = asyncio.run(run())
    quantity = Quantity("self_agreement", float(np.mean(shares)), "1", "higher", tuple(round(s, 4) for s in shares))
    return collect(endpoint.base_url, [quantity])


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def look_sizes(count: int) -> list[int]:
    sizes = [FIRST_LOOK]
    while sizes[-1] * 2 < count:
        sizes.append(sizes[-1] * 2)
    return [*[size for size in sizes if size < count], count]


def measure_pairs(subject: str, done: Sequence[Pair], confidence: float) -> Measurement:
    """Mean added nats and agreement over sessions, and the loss of task score, each with its interval."""
    sessions = [pair.session for pair in done]
    nats = by_session(sessions, [pair.added_nats for pair in done])
    agreement = by_session(sessions, [pair.agreement for pair in done])
    interval_of = _wide_interval if len(nats) < MIN_SESSIONS else mean_interval
    quantities = []
    for name, values, unit, better in (
        ("added_nats", nats, "nats/token", "lower"),
        ("agreement", agreement, "1", "higher"),
    ):
        value, interval = interval_of(values, confidence)
        raw = tuple(round(float(v), 6) for v in values)
        quantities.append(Quantity(name, value, unit, better, raw, interval))  # type: ignore[arg-type]
    quantities += _task_quantities(done, confidence)
    conditions = {"requests": len(done), "sessions": len(nats), "confidence_per_look": confidence}
    return collect(subject, quantities, conditions)


def _task_quantities(done: Sequence[Pair], confidence: float) -> list[Quantity]:
    labelled = [p for p in done if p.baseline_right is not None and p.candidate_right is not None]
    if not labelled:
        return []
    sessions = [p.session for p in labelled]
    before = by_session(sessions, [float(bool(p.baseline_right)) for p in labelled])
    after = by_session(sessions, [float(bool(p.candidate_right)) for p in labelled])
    lost, interval = lost_share(before, after, confidence)
    if len(before) < MIN_SESSIONS:
        interval = (float("-inf"), float("inf"))
    return [
        Quantity("task_score", float(after.mean()), "1", "higher"),
        Quantity("baseline_task_score", float(before.mean()), "1", "higher"),
        Quantity("degradation", lost, "1", "lower", interval=interval),
    ]


def _wide_interval(values: Any, confidence: float) -> tuple[float, tuple[float, float]]:
    del confidence
    return float(np.mean(values)), (float("-inf"), float("inf"))


async def _pair(client: Client, request: Request, reference: Reference, *, task_score: bool) -> Pair:
    logprobs, agreed = await _score(client, reference.prompt, reference.answer)
    if reference.spelled:  # a baseline token that became several agrees if all of them do
        ends = list(itertools.accumulate(reference.spelled))
        spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        logprobs, agreed = tuple(sum(logprobs[s]) for s in spans), tuple(all(agreed[s]) for s in spans)
    right = None
    if task_score and request.labelled:
        _, _, text = await _answer(client, request)
        right = is_right(text, request)
    added = float(np.mean(reference.logprobs) - np.mean(logprobs)) if logprobs else 0.0
    agreement = float(np.mean(agreed)) if agreed else 1.0
    return Pair(request.id, request.session, added, agreement, reference.right, right)


async def _answer(client: Client, request: Request) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    """Prompt tokens, greedy answer tokens and text. The token ids need `return_token_ids`, which vLLM has too."""
    path, body = body_of(request, client.model, GREEDY)
    answer = await client.post(path, body | {"return_token_ids": True})
    choice = answer["choices"][0]
    if choice.get("token_ids") is None:
        raise EndpointError(
            "This server returns no token ids, so answers cannot be scored on it: serve it with `pw serve`."
        )
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    prompt: list[int] = choice.get("prompt_token_ids") or answer.get("prompt_token_ids") or []
    return tuple(prompt), tuple(choice["token_ids"]), text or ""


async def _score(
    client: Client, prompt: Sequence[int], answer: Sequence[int]
) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Log-probability of each answer token after the prompt, and whether it was the model's first choice."""
    if not answer:
        return (), ()
    body = {
        "model": client.model,
        "prompt": [*prompt, *answer],
        "echo": True,
        "logprobs": 1,
        "max_tokens": 0,
        "temperature": 0.0,
        "logprob_start_len": len(prompt),
    }
    scored = (await client.post("/v1/completions", body))["choices"][0].get("logprobs")
    if not scored or not scored.get("token_logprobs"):
        raise EndpointError("This server scores no prompts (echo with logprobs), so fidelity cannot be measured on it.")
    places = slice(len(prompt), len(prompt) + len(answer))
    own = tuple(float(p) for p in scored["token_logprobs"][places])
    if "top_is_own" in scored:
        return own, tuple(bool(a) for a in scored["top_is_own"][places])
    tops = [max(row.values()) for row in scored["top_logprobs"][places]]
    return own, tuple(p >= top for p, top in zip(own, tops, strict=True))


async def _gather(items: Iterable[T], work: Callable[[T], Awaitable[R]], width: int, progress: Progress) -> list[R]:
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
