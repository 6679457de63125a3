"""What the choice of similar answers asks of running services. `ServiceSimilarBench` is the real one; tests use a fake,
so that the decisions are tested in milliseconds (tests/search/test_similar_search.py)."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pennyweight.errors import EndpointError
from pennyweight.measure import compare as comparing
from pennyweight.measure.client import Client, body_of, connect
from pennyweight.measure.proof import asking
from pennyweight.measure.replay import Progress
from pennyweight.measure.scorers import is_right
from pennyweight.measurement import Comparison
from pennyweight.mixing.agreement import agree, calls_in
from pennyweight.serve import Endpoint, open_service
from pennyweight.serve.gateway.similar_bound import certified
from pennyweight.serve.gateway.similar_cache import HEADER, JUDGED, SCORE
from pennyweight.serve.gateway.similar_sqlite import SQLiteSimilarStore
from pennyweight.service import Service
from pennyweight.similarity import agreement
from pennyweight.similarity.bound import Threshold
from pennyweight.workload import Arrivals, Request, Workload

SIMILAR = "similar"
Told = tuple[Request, asking.Answered, Mapping[str, str]]  # with the headers of the answer
JUDGED_WITHIN, POLL_SECONDS = 120.0, 0.2


@dataclass(frozen=True)
class Served:
    """What a client got, and the kept answer that was served, or in shadow would have been: its `hit_score` by the
    gate, whether it is right: it has the request's label, or agrees with what the service answers itself, and the
    `hit_answer` itself."""

    request: Request
    answered: asking.Answered
    hit_score: float | None = None
    hit_right: bool = True
    hit_answer: str = ""

    @property
    def is_hit(self) -> bool:
        return self.hit_score is not None

    @property
    def scored(self) -> bool | None:
        """By its label; None without one."""
        return is_right(self.answered.text, self.request) if self.request.labelled else None


class SimilarBench(Protocol):
    """The service's cache policy names the file of its answers."""

    def fill(self, service: Service, tuning: Workload) -> None:
        """Replays the tuning half in shadow, which fills the file."""
        ...

    def look(self, service: Service, half: Workload) -> list[Served]:
        """The half in shadow, on a copy of the file: what would have been served, and whether it is right."""
        ...

    def allow(self, service: Service, threshold: Threshold) -> None:
        """Scores from this threshold on are served from now on."""
        ...

    def serve(self, service: Service, half: Workload) -> list[Served]:
        """The half's answers on a copy of the file, in the order of its requests."""
        ...

    def compare(self, service: Service, without: Service, half: Workload) -> Comparison:
        """Requests a second of both, in interleaved runs, each on a copy of its own."""
        ...


@dataclass
class ServiceSimilarBench:
    """Services on this machine, through their gateways."""

    directory: Path
    progress: Progress
    streams: int
    rounds: int = 5  # no request may be asked twice, so that runs are short: few would leave a wide interval
    seed: int = 0
    start_timeout: float = 300.0

    def fill(self, service: Service, tuning: Workload) -> None:
        with self._open(_in_shadow(service)) as running:
            asyncio.run(self._asked(running, tuning.requests))
            asyncio.run(_when_judged(running))

    def look(self, service: Service, half: Workload) -> list[Served]:
        compared = service.cache.similar.compared
        with copied(_in_shadow(service)) as own, self._open(own) as running:
            told = asyncio.run(self._asked(running, half.requests))
            asyncio.run(_when_judged(running))  # all is written then
            with _store(own) as store:
                return asyncio.run(_would_be_hits(running, told, store, compared))

    def allow(self, service: Service, threshold: Threshold) -> None:
        with _store(service) as store:
            store.set_state(certified(store.state(), threshold, store.count(), service.cache.similar))

    def serve(self, service: Service, half: Workload) -> list[Served]:
        compared = service.cache.similar.compared
        with copied(service) as own, self._open(own) as running:
            told = asyncio.run(self._asked(running, half.requests))
            return asyncio.run(_hits(running, told, compared))

    def compare(self, service: Service, without: Service, half: Workload) -> Comparison:
        def opener(one: Service) -> comparing.Opener:
            return lambda stack: stack.enter_context(self._open(stack.enter_context(copied(one))))

        return comparing.compare(
            opener(service),
            opener(without),
            half,
            Arrivals("closed", max_concurrency=self.streams),
            rounds=self.rounds,
            seed=self.seed,
            quantity="request_throughput",
            caches=True,
            progress=self.progress,
        )

    def _open(self, service: Service) -> AbstractContextManager[Endpoint]:
        return open_service(service, logs=self.directory / "logs" / "similar", start_timeout=self.start_timeout)

    async def _asked(self, endpoint: Endpoint, requests: Sequence[Request]) -> list[Told]:
        """As a client asks: greedy, and with the caches."""
        async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key, caches=True) as client:

            async def one(request: Request) -> Told:
                path, body = body_of(request, client.model, asking.GREEDY)
                headers, told = await client.exchange(path, body)
                return request, asking.answered(told), headers

            return await asking.each(requests, one, self.streams, self.progress)


def _in_shadow(service: Service) -> Service:
    return replace(service, cache=replace(service.cache, similar=replace(service.cache.similar, shadow=True)))


@contextmanager
def copied(service: Service) -> Iterator[Service]:
    """The service with a copy of its file of answers, so that what is asked of it is not kept."""
    with tempfile.TemporaryDirectory(prefix="pennyweight-") as name:
        place = Path(name) / "answers.db"
        with closing(sqlite3.connect(service.cache.place)) as source, closing(sqlite3.connect(place)) as target:
            source.backup(target)
        yield replace(service, cache=replace(service.cache, place=str(place)))


@contextmanager
def _store(service: Service) -> Iterator[SQLiteSimilarStore]:
    store = SQLiteSimilarStore(Path(service.cache.place), service.cache.ttl_seconds)
    try:
        yield store
        store.flush()
    finally:
        asyncio.run(store.close())


async def _hits(endpoint: Endpoint, told: Sequence[Told], compared: str) -> list[Served]:
    """Each hit is held against what the service answers without its cache."""
    async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

        async def one(row: Told) -> Served:
            request, answered, headers = row
            if headers.get(HEADER) != SIMILAR:
                return Served(request, answered)
            path, body = body_of(request, client.model, asking.GREEDY)
            fresh = asking.answered(await client.post(path, body))
            right = await _is_right(client, request, _text(answered), _text(fresh), compared)
            return Served(request, answered, float(headers[SCORE]), right, _text(answered))

        return [await one(row) for row in told]


async def _would_be_hits(
    endpoint: Endpoint, told: Sequence[Told], store: SQLiteSimilarStore, compared: str
) -> list[Served]:
    """In shadow the answer is the service's own, and the kept one is in the store."""
    async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:

        async def one(row: Told) -> Served:
            request, answered, headers = row
            kept = store.find(headers[JUDGED]) if JUDGED in headers else None
            if kept is None:
                return Served(request, answered)
            right = await _is_right(client, request, kept.text, _text(answered), compared)
            return Served(request, answered, float(headers[SCORE]), right, kept.text)

        return [await one(row) for row in told]


async def _is_right(client: Client, request: Request, kept: str, fresh: str, compared: str) -> bool:
    if request.labelled:  # a wrong answer that the service gives itself loses nothing
        return is_right(kept, request) or agree(kept, fresh, compared or "text")

    async def post(path: str, body: Mapping[str, Any]) -> Any:
        return await client.post(path, {"model": client.model, **body})

    _, body = body_of(request, client.model, asking.GREEDY)
    return await agreement.agrees(body, kept, fresh, post, compared=compared)


def _text(answered: asking.Answered) -> str:
    return answered.text + calls_in(answered.message)


async def _when_judged(endpoint: Endpoint) -> None:
    """Judging goes on after the last answer."""
    begun = time.monotonic()
    async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:
        while (await client.get("/status"))["similar"]["unjudged"]:
            if time.monotonic() - begun > JUDGED_WITHIN:
                raise EndpointError(f"{endpoint.base_url} did not judge its would-be hits in {JUDGED_WITHIN:.0f} s.")
            await asyncio.sleep(POLL_SECONDS)
