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
from pennyweight.mixing.agreement import calls_in
from pennyweight.serve import Endpoint, open_service
from pennyweight.serve.gateway.similar_bound import certified
from pennyweight.serve.gateway.similar_sqlite import SQLiteSimilarStore
from pennyweight.serve.gateway.similar_store import Label
from pennyweight.service import Service
from pennyweight.similarity import agreement
from pennyweight.similarity.bound import Threshold
from pennyweight.workload import Arrivals, Request, Workload

HEADER, SIMILAR = "x-pennyweight-cache", "similar"
JUDGED_WITHIN, POLL_SECONDS = 120.0, 0.2


@dataclass(frozen=True)
class Served:
    """What a client got: the answer, and for a hit whether it is right: it has the request's label, or agrees with what
    the service answers itself."""

    request: Request
    answered: asking.Answered
    hit: bool = False
    right: bool = True

    @property
    def scored(self) -> bool | None:
        """By its label; None without one."""
        return is_right(self.answered.text, self.request) if self.request.labelled else None


class SimilarBench(Protocol):
    """The service's cache policy names the file of its answers."""

    def judge(self, service: Service, tuning: Workload) -> list[Label]:
        """Replays the tuning half, which fills the file. -> the labels of its would-be hits, of which none is
        served"""
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
    rounds: int = 3
    seed: int = 0
    start_timeout: float = 300.0

    def judge(self, service: Service, tuning: Workload) -> list[Label]:
        policy = service.cache.similar
        shadow = replace(service, cache=replace(service.cache, similar=replace(policy, shadow=True)))
        with self._open(shadow) as running:
            asyncio.run(_answers(running, tuning.requests, self.streams, self.progress))
            asyncio.run(_when_judged(running))
        with _store(service) as store:
            return [label for epoch in range(int(store.state().get("epoch", 0)) + 1) for label in store.labels(epoch)]

    def allow(self, service: Service, threshold: Threshold) -> None:
        with _store(service) as store:
            store.set_state(certified(store.state(), threshold, store.count(), service.cache.similar))

    def serve(self, service: Service, half: Workload) -> list[Served]:
        compared = service.cache.similar.compared
        with copied(service) as own, self._open(own) as running:
            found = asyncio.run(_answers(running, half.requests, self.streams, self.progress))
            return asyncio.run(_judged(running, found, compared))

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


async def _answers(endpoint: Endpoint, requests: Sequence[Request], streams: int, progress: Progress) -> list[Served]:
    """As a client asks: greedy, and with the caches."""
    async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key, caches=True) as client:

        async def one(request: Request) -> Served:
            path, body = body_of(request, client.model, asking.GREEDY)
            headers, told = await client.exchange(path, body)
            return Served(request, asking.answered(told), headers.get(HEADER) == SIMILAR)

        return await asking.each(requests, one, streams, progress)


async def _judged(endpoint: Endpoint, served: Sequence[Served], compared: str) -> list[Served]:
    """Each hit, held against what the service answers itself."""
    async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:
        return [replace(one, right=await _is_right(client, one, compared)) if one.hit else one for one in served]


async def _is_right(client: Client, hit: Served, compared: str) -> bool:
    if hit.scored:
        return True
    path, body = body_of(hit.request, client.model, asking.GREEDY)
    fresh = asking.answered(await client.post(path, body))

    async def post(path: str, body: Mapping[str, Any]) -> Any:
        return await client.post(path, {"model": client.model, **body})

    texts = [one.text + calls_in(one.message) for one in (hit.answered, fresh)]
    return await agreement.agrees(body, texts[0], texts[1], post, compared=compared)


async def _when_judged(endpoint: Endpoint) -> None:
    """Judging goes on after the last answer."""
    begun = time.monotonic()
    async with connect(endpoint.base_url, endpoint.model, api_key=endpoint.api_key) as client:
        while (await client.get("/status"))["similar"]["unjudged"]:
            if time.monotonic() - begun > JUDGED_WITHIN:
                raise EndpointError(f"{endpoint.base_url} did not judge its would-be hits in {JUDGED_WITHIN:.0f} s.")
            await asyncio.sleep(POLL_SECONDS)
