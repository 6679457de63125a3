"""Scores of free text without labels: what a judge says of it (measure/judge.py), corrected by the requests that have a
label, so that a judge who is wrong costs confidence, and never the certificate.

Each request's score is foreseen from the judgement. Of a request with a label, (right - foreseen) / share of its kind
that is labelled is added: whatever the judge, the mean is then that of the labels (prediction-powered inference:
Angelopoulos et al. 2023, arxiv.org/abs/2301.09633; Zrnic & Candès 2024, arxiv.org/abs/2403.03208). The labelled
requests must be a random sample of their kind.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pennyweight import codec
from pennyweight.errors import StorageError, WorkloadError
from pennyweight.json_lines import JsonLines
from pennyweight.measure.client import connect
from pennyweight.measure.judge import as_good
from pennyweight.measure.proof import asking
from pennyweight.measure.proof.forms import demands_form
from pennyweight.measure.replay import Progress, no_progress
from pennyweight.mixing.agreement import folded
from pennyweight.mixture_evidence import JudgeCalibration
from pennyweight.search.outcomes import Outcome
from pennyweight.serve.opening import Endpoint
from pennyweight.workload import Request

Floats = NDArray[np.float64]
LEAST_LABELLED = 30  # requests of each half
Pair = tuple[Request, Outcome, Outcome]  # a member's outcome and the reference's


@dataclass(frozen=True)
class Judgement:
    """How likely a member's answer is as good as the reference's, in 0..1. `answers` is a hash of both."""

    request_id: str
    member: str
    value: float
    answers: str = ""


@dataclass
class Judgements:
    """By request and member, in `file`. With `resume`, those that are there are read first; one of other answers is
    missing."""

    file: Path
    resume: bool = False
    _held: dict[tuple[str, str], Judgement] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lines = JsonLines(self.file)
        if not self.resume:
            self.file.unlink(missing_ok=True)
            return
        try:
            rows = self._lines.read()
        except ValueError as error:
            raise StorageError(f"{self.file} holds no judgements ({error}): start in another directory.") from None
        for row in rows:
            one = codec.value_of(Judgement, row, str(self.file))
            self._held[one.request_id, one.member] = one
        self._lines.cut()

    def add(self, judgement: Judgement) -> None:
        self._held[judgement.request_id, judgement.member] = judgement
        self._lines.append(codec.plain(judgement))

    def missing(self, member: str, pairs: Sequence[Pair]) -> list[Pair]:
        """Those of free requests."""
        return [pair for pair in pairs if is_free(pair[0]) and not self._has(member, pair)]

    def _has(self, member: str, pair: Pair) -> bool:
        held = self._held.get((pair[0].id, member))
        return held is not None and held.answers == answers_hash(pair)

    def of(self, member: str, requests: Sequence[Request]) -> Floats:
        """1 where nothing was to be judged."""
        held = [self._held.get((request.id, member)) for request in requests]
        return np.array([1.0 if one is None else one.value for one in held])


def ask_judge(
    judgements: Judgements,
    member: str,
    endpoint: Endpoint,
    pairs: Sequence[Pair],
    *,
    concurrency: int,
    progress: Progress = no_progress,
) -> None:
    """Judge what is missing. Answers of the same words are as good as each other, and nobody is asked."""

    async def run() -> None:
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

            async def one(pair: Pair) -> None:
                request, mine, its = pair
                value = 1.0 if _same(mine, its) else await as_good(client, request, its.text, mine.text)
                judgements.add(Judgement(request.id, member, value, answers_hash(pair)))

            await asking.each(judgements.missing(member, pairs), one, concurrency, progress)

    asyncio.run(run())


def answers_hash(pair: Pair) -> str:
    _, mine, its = pair
    return hashlib.sha256(json.dumps([mine.text, its.text]).encode()).hexdigest()[:16]


def _same(mine: Outcome, its: Outcome) -> bool:
    return folded(mine.text) == folded(its.text)


def fit_judge(judged: Floats, same: NDArray[np.bool_], right: Floats, reference: Floats) -> JudgeCalibration:
    """From labelled requests of the tuning half: what the reference scores on average, and what a member loses where
    the judge says this much. Equal answers, `same`, lose nothing."""
    doubt, lost = 1 - judged[~same], (reference - right)[~same]
    slope, at_none = 0.0, float(lost.mean()) if len(lost) else 0.0
    if len(lost) > 2 and np.ptp(doubt) > 1e-9:
        slope, at_none = (float(value) for value in np.polyfit(doubt, lost, 1))
    return JudgeCalibration(float(reference.mean()), at_none, slope)


class Judging:
    """Corrected scores. `requests` are those of one half."""

    def __init__(
        self, judgements: Judgements, reference: str, calibrations: Mapping[str, JudgeCalibration] | None = None
    ) -> None:
        self.judgements, self.reference = judgements, reference
        self.calibrations = dict(calibrations or {})

    def fit(self, member: str, rows: Sequence[Pair]) -> None:
        """`rows` of the tuning half with labels."""
        requests = [request for request, *_ in rows]
        same = np.array([_same(mine, its) for _, mine, its in rows])
        right = np.array([mine.score or 0.0 for _, mine, _ in rows])
        reference = np.array([its.score or 0.0 for _, _, its in rows])
        self.calibrations[member] = fit_judge(self.judgements.of(member, requests), same, right, reference)

    def scores(self, member: str, rows: Sequence[Pair], shares: Mapping[str, float]) -> Floats:
        """(requests,), not within 0..1 where a request's label corrects it. `shares` are `labelled_shares`."""
        requests = [request for request, *_ in rows]
        foreseen = self._foreseen(member, requests, rows)
        labels = np.array([np.nan if mine.score is None else mine.score for _, mine, _ in rows])
        weights = np.array([1 / shares[request.kind] if is_free(request) else 1.0 for request in requests])
        return np.where(np.isnan(labels), foreseen, foreseen + weights * (np.nan_to_num(labels) - foreseen))

    def _foreseen(self, member: str, requests: Sequence[Request], rows: Sequence[Pair]) -> Floats:
        if member == self.reference:
            mean = next(iter(self.calibrations.values())).reference
            return np.full(len(rows), mean)
        by = self.calibrations[member]
        lost = by.at_none + by.slope * (1 - self.judgements.of(member, requests))
        lost[np.array([_same(mine, its) for _, mine, its in rows], bool)] = 0.0
        return np.asarray(np.clip(by.reference - lost, 0.0, 1.0))


def is_free(request: Request) -> bool:
    """Is its answer judged where it has no label, because no form is demanded of it?"""
    return not demands_form(request)


def labelled_shares(requests: Sequence[Request]) -> dict[str, float]:
    """Of each kind, the share of free requests with a label."""
    free = [request for request in requests if is_free(request)]
    seen, labelled = Counter(r.kind for r in free), Counter(r.kind for r in free if r.labelled)
    return {kind: labelled[kind] / count for kind, count in seen.items()}


def most_of(requests: Sequence[Request]) -> float:
    """How much one request can lose in corrected scores: 1 where all are labelled."""
    return max((2 / share - 1 for share in labelled_shares(requests).values()), default=1.0)


def refuse_unjudged(requests: Sequence[Request], half: str) -> None:
    """Raises `WorkloadError` for too few labels, or a kind without any: nothing would correct the judge."""
    free = [request for request in requests if is_free(request)]
    if any(request.prompt_tokens for request in free):
        raise WorkloadError("A judge reads texts, and a request gives its prompt as tokens: give it as text.")
    if all(request.labelled for request in free):
        raise WorkloadError("--judge has nothing to judge: every request has a label or a form. Leave it out.")
    labelled = sum(request.labelled for request in free)
    if labelled < LEAST_LABELLED:
        raise WorkloadError(
            f"A judge is corrected by labels, and {labelled} free requests (of no demanded form) of the {half} half "
            f"have one: label at least {LEAST_LABELLED}, chosen at random."
        )
    bare = next((kind for kind, share in labelled_shares(requests).items() if not share), None)
    if bare is not None:
        raise WorkloadError(
            f"No free request of the kind {bare!r} in the {half} half has a label: a judge of them could not be "
            "corrected. Label some of them, chosen at random, or leave them out."
        )
