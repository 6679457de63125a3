"""The proof: is what is served as good as the budget asks? Parts 1 to 6; speed and limits (part 7) are speed.py's.

same question -> weights and decode path -> endings -> tails -> tasks. A deployment is accepted if every part holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pennyweight.budget import Budget, Outcome, Verdict
from pennyweight.errors import WorkloadError
from pennyweight.evidence import Reference
from pennyweight.measure.client import Client, connect
from pennyweight.measure.proof import asking, decode, endings, same_question, sampling, tails, tasks, weights
from pennyweight.measure.proof.allowance import Allowance, look_sizes
from pennyweight.measure.proof.asking import Answered
from pennyweight.measure.proof.pair import Continued, Pair
from pennyweight.measure.proof.part import Row
from pennyweight.measure.proof.references import ANSWER_CONCURRENCY, samples
from pennyweight.measure.proof.strata import in_turns
from pennyweight.measure.proof.units import Units
from pennyweight.measure.replay import Progress, no_progress
from pennyweight.measure.scorers import is_right
from pennyweight.measurement import Measurement, collect
from pennyweight.serve.opening import Endpoint
from pennyweight.workload import Request, Workload

SCORE_CONCURRENCY = 2
MIN_COVERED = 0.95  # of the answers must have log-probabilities for the decode path to count as measured
SCORED = ("added_nats", "divergence", "departures", "tail_share", "agreement")  # what needs scores


@dataclass(frozen=True)
class Evaluation:
    """The measurement over all evaluated requests, and the verdict on every part but speed."""

    measurement: Measurement
    verdict: Verdict


def evaluate(
    endpoint: Endpoint,
    workload: Workload,
    held_against: Mapping[str, Reference],
    budget: Budget,
    *,
    allowance: Allowance | None = None,
    concurrency: int = ANSWER_CONCURRENCY,
    seed: int = 0,
    scores: bool | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Look at more and more requests until every part is settled or the workload is used up.

    allowance    the error that this attempt may use; by default a first attempt's
    concurrency  requests at a time that are answered, as served
    scores       whether the endpoint scores given tokens; None: ask it. Where it does not, parts 2, 3 and 5 are left
                 out, and their limits are named as not proven
    """
    requests = [request for request in in_turns(workload) if request.id in held_against]
    if not requests:
        raise WorkloadError(
            f"No request of {workload.name!r} has a baseline answer: was it made from another workload?"
        )
    allowed = allowance or Allowance(budget.confidence)
    units = Units.over(requests, held_against)
    looks = look_sizes(len(requests))
    if scores is None:  # our own engines all score: one that does not has failed
        scores = endpoint.process is not None or _can_score(endpoint, held_against[requests[0].id])
    asker = _Asker(endpoint, held_against, units, concurrency, seed, scores)
    pairs: list[Pair] = []
    for number, size in enumerate(looks):
        pairs += asker.pairs(requests[len(pairs) : size], _shifted(progress, len(pairs), len(requests)))
        error = allowed.of_look(number, len(looks))
        measurement, verdict = judged(pairs, units, budget, error, left_out=asker.left_out)
        if verdict.outcome is not Outcome.INCONCLUSIVE:
            break
    return Evaluation(measurement, verdict)


def judged(
    pairs: Sequence[Pair], units: Units, budget: Budget, error: float, *, left_out: Mapping[str, str] | None = None
) -> tuple[Measurement, Verdict]:
    """The rows of all parts as one measurement, and the verdict on it."""
    rows: list[Row] = [
        *same_question.judge(pairs),
        *weights.judge(pairs, units, budget, error),
        *decode.judge(pairs, error),
        *endings.judge(pairs, error),
        *tails.judge(pairs, units, budget, error),
        *tasks.judge(pairs, error),
        *sampling.judge(pairs),
    ]
    conditions: dict[str, Any] = {
        "requests": len(pairs),
        "sessions": len({pair.unit for pair in pairs}),
        "error_per_side": error,
        "clip_nats": budget.clip_nats * units.mean_tokens,
        "parts": {row.quantity.name: str(row.part) for row in rows},
        "reasons": {row.quantity.name: row.reason for row in rows if row.reason},
    }
    omitted = dict(left_out or {}) | _unmeasured(pairs)
    if omitted:
        conditions["left_out"] = omitted
    measurement = collect("", [row.quantity for row in rows], conditions)
    return measurement, judge(budget, measurement)


def _unmeasured(pairs: Sequence[Pair]) -> dict[str, str]:
    """What these answers do not allow to measure, and why."""
    found = {}
    compared = [pair for pair in pairs if pair.scored is not None]
    if compared and decode.covered(compared) < MIN_COVERED:
        share = decode.covered(compared)
        found["decode_added_nats"] = f"only {share:.0%} of the answers came with the log-probability of every token"
    if compared and all(pair.answered.tokens is None for pair in compared):
        found["departures"] = "the server gives no token ids"
    if any(pair.reference.samples for pair in pairs) and not sampling.decides(pairs):
        found["sampled_p_value"] = "too few sampled requests, or a server without token ids"
    return found


def judge(budget: Budget, measurement: Measurement) -> Verdict:
    """The verdict on every quality limit of the budget. A limit whose quantity is missing is rejected, but for those
    that the conditions name under `left_out`, which are then not proven, and for forms, which not every workload
    has."""
    left_out = measurement.conditions.get("left_out", {})
    limits = [limit for limit in budget.quality_limits if limit.quantity not in left_out]
    limits += [limit for limit in budget.form_limits if limit.quantity in measurement]
    if measurement.get("different_prompts"):  # another question was answered: the answers say nothing
        limits = [limit for limit in limits if limit.quantity == "different_prompts"]
    return budget.judge_limits(measurement, tuple(limits), measurement.conditions.get("reasons"))


@dataclass(frozen=True)
class _Asker:
    """Asks the candidate all that the parts need."""

    endpoint: Endpoint
    held_against: Mapping[str, Reference]
    units: Units
    concurrency: int
    seed: int
    scores: bool

    @property
    def left_out(self) -> dict[str, str]:
        """Limits that cannot be measured, and why."""
        found: dict[str, str] = {}
        if not self.scores:
            found |= dict.fromkeys(SCORED, "the endpoint scores no given tokens")
        elif not any(reference.tops for reference in self.held_against.values()):
            found["divergence"] = "the references were made by an older release"
        return found

    def pairs(self, requests: Sequence[Request], progress: Progress) -> list[Pair]:
        """Answers first, at the served concurrency; then scores, a few at a time, because each takes the machine."""

        async def run() -> list[Pair]:
            url, model, key = self.endpoint.base_url, self.endpoint.model, self.endpoint.api_key
            async with connect(url, model, api_key=key) as client:

                async def answer(request: Request) -> Pair:
                    return await self._answered(client, request)

                async def score(pair: Pair) -> Pair:
                    return await self._scored(client, pair)

                answered = await asking.each(requests, answer, self.concurrency, _half(progress, 0))
                if not all(map(same_question.same_prompt, answered)) or not self.scores:
                    return answered  # what another question was answered with needs no score
                return await asking.each(answered, score, SCORE_CONCURRENCY, _half(progress, 1))

        return asyncio.run(run())

    async def _answered(self, client: Client, request: Request) -> Pair:
        reference = self.held_against[request.id]
        answered = without_end(await asking.answer(client, request), reference)
        continued = []
        cut = decode.cut_of(reference, self.seed)
        same = answered.prompt is None or answered.prompt == reference.prompt
        if cut is not None and self.scores and same:
            tokens = [*reference.prompt, *reference.answer[:cut]]
            more = await asking.continuation(client, tokens, min(decode.CONTINUED_TOKENS, len(reference.answer) - cut))
            continued.append(Continued(cut, more.tokens or (), more.logprobs))
        return Pair(
            request,
            self.units.of[request.id],
            reference,
            answered,
            continued=tuple(continued),
            right=is_right(answered.text, request) if request.labelled else None,
            samples=await samples(client, request) if reference.samples else (),
        )

    async def _scored(self, client: Client, pair: Pair) -> Pair:
        tokens = pair.reference.scored_tokens
        return replace(pair, scored=await asking.score(client, pair.reference.prompt, tokens))


def without_end(answered: Answered, reference: Reference) -> Answered:
    """Some servers, as vLLM, count the end token among an answer's tokens; others, as ours, do not."""
    tokens = answered.tokens
    if not tokens or answered.finish != "stop" or tokens[-1] != reference.end:
        return answered
    return replace(answered, tokens=tokens[:-1], logprobs=answered.logprobs[: len(tokens) - 1])


def _can_score(endpoint: Endpoint, reference: Reference) -> bool:
    async def ask() -> bool:
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:
            return await asking.can_score(client, reference)

    return asyncio.run(ask())


def agreements(
    endpoint: Endpoint, held_against: Sequence[Reference], progress: Progress = no_progress
) -> list[tuple[bool, ...]]:
    """For each answer: at which tokens the endpoint, teacher-forced over it, has the same first choice."""

    async def run() -> list[tuple[bool, ...]]:
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

            async def one(reference: Reference) -> tuple[bool, ...]:
                scored = await asking.score(client, reference.prompt, reference.answer)
                return tuple(tops[0][0] == token for tops, token in zip(scored.tops, reference.answer, strict=True))

            return await asking.each(held_against, one, SCORE_CONCURRENCY, progress)

    return asyncio.run(run())


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _half(progress: Progress, which: int) -> Progress:
    """Answers count for the first half of each request's progress, scores for the second."""
    return lambda done, total: progress((which * total + done) // 2, total)
