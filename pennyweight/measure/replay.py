"""Replay a workload against an endpoint, and check that the load generator did not distort the result."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from pennyweight.errors import MeasurementVoid, WorkloadError
from pennyweight.measure.client import Client, Sampling
from pennyweight.measure.record import Record
from pennyweight.measure.statistics import percentile
from pennyweight.workload import Arrivals, Request, Workload

LONGEST_LAG = 0.010  # seconds, 99th percentile
HEARTBEAT = 0.005
WARM_UP_AGREEMENT = 0.10
WARM_UP_LIMIT = 15
WARM_UP_TOKENS = 16

Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """A progress callback that does nothing."""
    del done, total


@dataclass(frozen=True)
class Replay:
    """All records of one run and the load generator's delays. `heartbeats` are oversleeps of its event loop."""

    records: tuple[Record, ...]
    seconds: float
    heartbeats: tuple[float, ...]
    generator_cpu_share: float

    @property
    def succeeded(self) -> list[Record]:
        return [record for record in self.records if record.error is None]

    @property
    def lag(self) -> float:
        """Seconds late, of 99 in 100 or all: the worse of requests sent and heartbeats of the loop after their time."""
        lags = [record.lag for record in self.records if record.sent]
        return max(percentile(values, 99) for values in (lags, self.heartbeats) if values)

    @property
    def is_late(self) -> bool:
        """Did the generator rather than the server set the pace?"""
        return self.lag > LONGEST_LAG

    def refuse_if_empty(self) -> None:
        """Raise when nothing came back."""
        if not self.succeeded:
            first = next((r.error for r in self.records if r.error), "no request was sent")
            raise MeasurementVoid(f"All {len(self.records)} requests failed, the first with: {first}.")
        if not any(record.output_tokens for record in self.succeeded):
            raise MeasurementVoid(
                f"All {len(self.succeeded)} answers are empty: the model ends them with its first token. There is no "
                "speed to measure. Look at one answer with `pw serve`, and at the model's chat template."
            )

    def refuse_if_late(self) -> None:
        if self.is_late:
            raise MeasurementVoid(
                f"The load generator was late (by {1000 * self.lag:.1f} ms, limit {1000 * LONGEST_LAG:.0f} ms): "
                "close what else runs, lower the rate, or run the generator on another machine."
            )


def schedule(requests: Sequence[Request], arrivals: Arrivals, seed: int) -> list[float]:
    """Seconds after the start at which each request is due; a closed loop has no times of its own."""
    if arrivals.kind == "recorded":
        if any(request.arrival is None for request in requests):
            raise WorkloadError("This workload has no recorded times: use --request-rate or --max-concurrency.")
        first = requests[0].arrival or 0.0
        return [((request.arrival or 0.0) - first) * arrivals.time_scale for request in requests]
    generator = random.Random(seed)
    shape = 1.0 if arrivals.kind == "poisson" else arrivals.burstiness
    due, times = 0.0, []
    for _ in requests:
        times.append(due)
        due += generator.gammavariate(shape, 1.0 / (arrivals.request_rate * shape))
    return times


async def replay(
    client: Client,
    workload: Workload,
    arrivals: Arrivals,
    sampling: Sampling,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Replay:
    """Send every request and wait for every answer."""
    requests = workload.requests
    beats: list[float] = []
    heart = asyncio.create_task(_beat(beats))
    gc.collect()
    gc.disable()  # a collection would be lag that the server did not cause
    cpu, start = time.process_time(), time.perf_counter()
    try:
        if arrivals.kind == "closed":
            records = await _closed(client, requests, arrivals.max_concurrency or 1, sampling, progress)
        else:
            due = [start + offset for offset in schedule(requests, arrivals, seed)]
            records = await _open(client, requests, due, sampling, progress, limit=arrivals.max_concurrency)
    finally:
        gc.enable()
        heart.cancel()
    seconds = max((r.finished for r in records), default=start) - start
    share = (time.process_time() - cpu) / max(1e-9, time.perf_counter() - start)
    return Replay(tuple(records), seconds, tuple(beats), share)


async def _closed(
    client: Client, requests: Sequence[Request], concurrency: int, sampling: Sampling, progress: Progress
) -> list[Record]:
    waiting = iter(requests)
    records: list[Record] = []
    done = count(1)

    async def stream_of_requests() -> None:
        for request in waiting:
            record = Record(request.id, time.perf_counter())
            records.append(record)
            await client.stream(request, sampling, record)
            progress(next(done), len(requests))

    await asyncio.gather(*(stream_of_requests() for _ in range(min(concurrency, len(requests)))))
    return records


async def _open(
    client: Client,
    requests: Sequence[Request],
    due: Iterable[float],
    sampling: Sampling,
    progress: Progress,
    *,
    limit: int | None = None,
) -> list[Record]:
    """At their times, and with a `limit` at most so many at once: one that finds no place is sent when there is one,
    and counts from then on, as in vLLM's benchmark."""
    records: list[Record] = []
    places = asyncio.Semaphore(limit) if limit else None

    async def one(request: Request, record: Record) -> Record:
        if places is None:
            return await client.stream(request, sampling, record)
        waits = places.locked()
        async with places:
            if waits:
                record.scheduled = time.perf_counter()
            return await client.stream(request, sampling, record)

    tasks = []
    done = count(1)

    def finished(_: asyncio.Task[Record]) -> None:
        progress(next(done), len(requests))

    for request, when in zip(requests, due, strict=True):
        delay = when - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        record = Record(request.id, when)
        records.append(record)
        task = asyncio.create_task(one(request, record))
        task.add_done_callback(finished)
        tasks.append(task)
    await asyncio.gather(*tasks)
    return records


async def _beat(beats: list[float]) -> None:
    while True:
        due = time.perf_counter() + HEARTBEAT
        await asyncio.sleep(HEARTBEAT)
        beats.append(max(0.0, time.perf_counter() - due))


async def warm_up(client: Client, workload: Workload, sampling: Sampling) -> int:
    """Send one request at a time until three in a row take the same time within 10%; returns how many it took."""
    request = min(workload.requests, key=lambda r: len(repr(r.messages or r.prompt or r.prompt_tokens)))
    request = replace(request, max_tokens=min(WARM_UP_TOKENS, request.max_tokens))
    times: list[float] = []
    for _ in range(WARM_UP_LIMIT):
        record = await client.stream(request, sampling, Record("warm-up", time.perf_counter()))
        if record.error is not None:
            raise MeasurementVoid(f"The first request failed already: {record.error}")
        times.append(record.e2e)
        last = times[-3:]
        if len(last) == 3 and max(last) - min(last) <= WARM_UP_AGREEMENT * min(last):
            break
    return len(times)
