"""What each member answers to each request: asked once, kept on disk, and looked at by every policy of a mixture, so
that a hundred thresholds cost no generation."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pennyweight import codec
from pennyweight.errors import StorageError
from pennyweight.json_lines import JsonLines
from pennyweight.measure.client import Client, connect
from pennyweight.measure.proof import asking
from pennyweight.measure.proof.forms import demands_form, keeps_form
from pennyweight.measure.proof.intervals import share_interval
from pennyweight.measure.replay import Progress, no_progress
from pennyweight.measure.scorers import is_right
from pennyweight.mixing.agreement import agree, calls_in
from pennyweight.mixing.cascade import TOPS
from pennyweight.serve.opening import Endpoint
from pennyweight.workload import Request, Workload

Floats = NDArray[np.float64]
DEPARTURES_ERROR = 0.05


@dataclass(frozen=True)
class Outcome:
    """One member's greedy answer to one request; its tool calls are part of `text`. `score` is 1 where a labelled
    request was answered rightly or a demanded form was kept, 0 where not, and None where neither was asked. `logprobs`
    are those of its tokens, in nats, `margins` those to the next likeliest; `seconds` from sending to the whole answer,
    beside `concurrency` - 1 others."""

    request_id: str
    member: str
    text: str
    finish: str
    score: float | None = None
    logprobs: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    concurrency: int = 1


class OutcomeMatrix:
    """Outcomes by request and member, in `file`. With `resume`, those that are there are read first."""

    def __init__(self, file: Path, *, resume: bool = False) -> None:
        self.file = file
        self._lines = JsonLines(file)
        self._held: dict[tuple[str, str], Outcome] = {}
        if resume:
            self._read()
        elif file.exists():
            file.unlink()

    def _read(self) -> None:
        where = str(self._lines.path)
        try:
            rows = self._lines.read()
        except ValueError as error:
            raise StorageError(
                f"{where} holds no outcomes ({error}): remove it, or start in another directory."
            ) from None
        for row in rows:
            self._keep(codec.value_of(Outcome, row, where))
        self._lines.cut()

    def _keep(self, outcome: Outcome) -> None:
        self._held[outcome.request_id, outcome.member] = outcome

    def add(self, outcome: Outcome) -> None:
        """Kept in memory and on disk; a second answer of the same member to the same request replaces the first."""
        self._keep(outcome)
        self._lines.append(codec.plain(outcome))

    def missing(self, member: str, requests: Sequence[Request]) -> list[Request]:
        return [request for request in requests if (request.id, member) not in self._held]

    def of(self, member: str, requests: Sequence[Request]) -> list[Outcome]:
        """In the order of the requests. Raises `KeyError` for one that is missing."""
        return [self._held[request.id, member] for request in requests]

    def scores(self, member: str, requests: Sequence[Request]) -> Floats:
        """(requests,), NaN where a request is not labelled."""
        found = [outcome.score for outcome in self.of(member, requests)]
        return np.array([np.nan if score is None else score for score in found])


def collect(
    matrix: OutcomeMatrix,
    member: str,
    endpoint: Endpoint,
    requests: Sequence[Request],
    *,
    concurrency: int,
    progress: Progress = no_progress,
) -> None:
    """Ask the member what is missing, and keep each answer as it comes."""

    async def run() -> None:
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

            async def one(request: Request) -> None:
                matrix.add(await _asked(client, request, member, concurrency))

            await asking.each(matrix.missing(member, requests), one, concurrency, progress)

    asyncio.run(run())


async def _asked(client: Client, request: Request, member: str, concurrency: int) -> Outcome:
    begun = time.perf_counter()
    answered = await asking.answer(client, request, tops=TOPS)
    return Outcome(
        request.id,
        member,
        answered.text + calls_in(answered.message),
        answered.finish,
        _score(request, answered),
        answered.logprobs,
        answered.margins,
        answered.prompt_count,
        answered.count,
        time.perf_counter() - begun,
        concurrency,
    )


def _score(request: Request, answered: asking.Answered) -> float | None:
    if request.labelled:
        return float(is_right(answered.text, request))
    return float(keeps_form(request, answered)) if demands_form(request) else None


def compared_by(workload: Workload) -> str:
    """How answers to its requests are compared (mixing/agreement.py): as most of its requests are scored."""
    kinds = Counter(_compared(request) for request in workload.requests)
    return kinds.most_common(1)[0][0]


def _compared(request: Request) -> str:
    if request.scorer == "numeric":
        return "number"
    if request.scorer == "choice":
        return f"choice {'|'.join(request.choices)}" if request.choices else "choice"
    return "json" if demands_form(request) else "text"


def scored(requests: Sequence[Request], outcomes: Sequence[Outcome], against: Sequence[Outcome]) -> Floats:
    """(requests,) in 0..1: each outcome's own score where its request has a label or a form, else whether its answer
    agrees with the reference's."""
    rows = zip(requests, outcomes, against, strict=True)
    return np.array(
        [
            float(agree(one.text, other.text, _compared(request))) if one.score is None else one.score
            for request, one, other in rows
        ]
    )


def departures(small: Sequence[Outcome], large: Sequence[Outcome], kept: NDArray[np.bool_], compared: str) -> float:
    """An upper bound on the share of kept answers that differ from the large model's: what a monitor holds against."""
    differs = [not agree(a.text, b.text, compared) for a, b in zip(small, large, strict=True)]
    _, (_, high) = share_interval(int((np.array(differs) & kept).sum()), int(kept.sum()), DEPARTURES_ERROR)
    return high
