"""Latency, throughput, goodput and resources of an endpoint under a workload, as one `Measurement`."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from typing import Any

from pennyweight.errors import EndpointError, MeasurementVoid, UsageError
from pennyweight.measure import resources
from pennyweight.measure.client import REQUEST_TIMEOUT, STALL_TIMEOUT, Client, Sampling, connect
from pennyweight.measure.record import Record
from pennyweight.measure.replay import WARM_UP_LIMIT, Progress, Replay, no_progress, replay, warm_up
from pennyweight.measure.resources import Usage
from pennyweight.measure.statistics import percentile
from pennyweight.measurement import MIN_FOR_P99, PERCENTILES, Measurement, Quantity, collect
from pennyweight.serve.opening import Endpoint
from pennyweight.workload import Arrivals, Workload

SLO_NAMES = ("ttft", "tpot", "e2el")
LATE_RETRIES = 3  # for those who repeat spoiled runs
LATE_PAUSE_SECONDS = 3.0  # before a spoiled run is repeated; grows with each
MAX_REASONS = 20  # kinds of failures that are kept


def measure_speed(
    endpoint: Endpoint,
    workload: Workload,
    arrivals: Arrivals,
    sampling: Sampling,
    *,
    seed: int = 0,
    goodput: Mapping[str, float] | None = None,
    price_per_hour: float | None = None,
    warm_with: Workload | None = None,
    api_key: str | None = None,
    late_retries: int = 0,
    accept_late: bool = False,
    request_timeout: float | None = None,
    count_tokens: Callable[[str], int] | None = None,
    accept_cached: bool = False,
    caches: bool = False,
    keep: Callable[[Sequence[Record]], None] = lambda _: None,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda _: None,
) -> Measurement:
    """Warm up, replay, and refuse a run that the generator spoiled, as it does on a busy machine. Such a run is
    repeated `late_retries` times first, which `say` is told; with `accept_late` the last one is kept and carries the
    condition `late_generator_ms`.

    goodput          milliseconds by SLO name
    request_timeout  seconds that a request may take; None: 600, and a stream that stands still for 120 has failed
    count_tokens     counts the tokens of answers whose server reports no usage
    accept_cached    keep a run in which the server answered from a cache
    caches           measure a service with its caches: all but the warm-up is asked as clients ask
    keep             receives the records of the run that counts

    Raises `MeasurementVoid`, and `EndpointError` if an engine that we started failed a request."""

    def client_of(*, caches: bool) -> AbstractAsyncContextManager[Client]:
        return connect(
            endpoint.base_url,
            endpoint.model,
            timeout=request_timeout or REQUEST_TIMEOUT,
            stall=None if request_timeout else STALL_TIMEOUT,
            api_key=api_key or endpoint.api_key,
            count_tokens=count_tokens,
            caches=caches,
        )

    async def run() -> tuple[Replay, Usage, int]:
        async with client_of(caches=False) as first, client_of(caches=caches) as client:
            warmed = await warm_up(first, warm_with or workload, sampling)
            with resources.watch(endpoint.process) as usage:
                return await replay(client, workload, arrivals, sampling, seed=seed, progress=progress), usage, warmed

    for name in goodput or {}:
        if name not in SLO_NAMES:
            raise UsageError(f"--goodput knows no {name!r}: use {', '.join(SLO_NAMES)} as name:milliseconds.")
    for attempt in range(late_retries + 1):
        run_of_requests, usage, warmed = asyncio.run(run())
        if not run_of_requests.is_late or attempt == late_retries:
            break
        late = 1000 * run_of_requests.lag
        say(f"Measuring again ({attempt + 1} of {late_retries}): the machine is busy, requests were {late:.0f} ms late")
        time.sleep(LATE_PAUSE_SECONDS * (attempt + 1))
    keep(run_of_requests.records)
    run_of_requests.refuse_if_empty()
    if not accept_late:
        run_of_requests.refuse_if_late()
    records = run_of_requests.records
    cached = sum(record.cached for record in records)
    if cached and not (accept_cached or caches):
        raise MeasurementVoid(
            f"The server answered {cached} of {len(records)} requests from a cache, so this is not the speed of a "
            "model: turn the cache off for these requests, or accept it with --accept-cached."
        )
    failed = [record for record in records if record.error]
    if failed and endpoint.process is not None:  # our own engine may not lose a request; a foreign server's are counted
        first = failed[0]
        raise EndpointError(f"{len(failed)} of {len(records)} requests failed, {first.id!r} with: {first.error}.")
    conditions = {
        "workload": workload.name,
        "workload_id": workload.id,
        "requests": len(workload.requests),
        "seed": seed,
        "arrivals": asdict(arrivals),
        "sampling": asdict(sampling),
        "warm_up_requests": warmed,
        "warm_up_settled": warmed < WARM_UP_LIMIT,
        "tokens_counted_by": sorted({record.counted for record in run_of_requests.succeeded}),
        "failures": dict(Counter(record.error for record in failed if record.error).most_common(MAX_REASONS)),
        "retried_connections": sum(record.retries for record in records),
        "cached_answers": cached,
        "empty_answers": sum(not record.output_tokens for record in run_of_requests.succeeded),
    }
    if run_of_requests.is_late:
        conditions["late_generator_ms"] = round(1000 * run_of_requests.lag, 1)
    quantities = [
        *_latencies(run_of_requests.succeeded),
        *_throughputs(run_of_requests, goodput),
        *_resources(run_of_requests, usage, price_per_hour),
        *_generator(run_of_requests),
    ]
    return collect(endpoint.base_url, quantities, conditions)


def _latencies(records: Sequence[Record]) -> list[Quantity]:
    series = {
        "ttft": [1000 * r.ttft for r in records],
        "tpot": [1000 * r.tpot for r in records if r.tpot is not None],
        "itl": [1000 * gap for r in records for gap in r.itl],
        "e2e": [1000 * r.e2e for r in records],
    }
    found = []
    for name, values in series.items():
        if not values:
            continue  # single-token answers have neither TPOT nor ITL
        rounded = tuple(round(value, 2) for value in values)
        found.append(Quantity(f"{name}_mean_ms", sum(values) / len(values), "ms", "lower", raw=rounded))
        found.extend(
            Quantity(f"{name}_p{p}_ms", percentile(values, p), "ms", "lower")
            for p in PERCENTILES
            if p < 99 or len(values) >= MIN_FOR_P99
        )
        found.append(Quantity(f"{name}_max_ms", max(values), "ms", "lower"))
    return found


def _throughputs(run: Replay, goodput: Mapping[str, float] | None) -> list[Quantity]:
    records, seconds = run.succeeded, run.seconds
    output = sum(r.output_tokens for r in records)
    prompt = sum(r.prompt_tokens for r in records)
    found = [
        Quantity("duration_s", seconds, "s", "lower"),
        Quantity("output_tokens", output, "tokens", "higher", raw=tuple(r.output_tokens for r in records)),
        Quantity("request_throughput", len(records) / seconds, "requests/s", "higher"),
        Quantity("output_throughput", output / seconds, "tokens/s", "higher"),
        Quantity("total_throughput", (output + prompt) / seconds, "tokens/s", "higher"),
        Quantity("failed_requests", len(run.records) - len(records), "requests", "lower"),
    ]
    if goodput:
        good = sum(_meets(record, goodput) for record in records)
        found.append(Quantity("goodput", good / seconds, "requests/s", "higher"))
        found.append(Quantity("goodput_share", good / len(run.records), "1", "higher"))
    return found


def _meets(record: Record, goodput: Mapping[str, float]) -> bool:
    times = {"ttft": record.ttft, "tpot": record.tpot or 0.0, "e2el": record.e2e}
    return all(1000 * times[name] <= bound for name, bound in goodput.items())


def _resources(run: Replay, usage: Usage, price_per_hour: float | None) -> list[Quantity]:
    tokens = sum(r.output_tokens for r in run.succeeded)
    found = []
    if usage.peak_memory_bytes is not None:
        found.append(Quantity("peak_memory_bytes", usage.peak_memory_bytes, "bytes", "lower"))
    if tokens and usage.cpu_seconds is not None:
        found.append(Quantity("cpu_seconds_per_1k_tokens", 1000 * usage.cpu_seconds / tokens, "s", "lower"))
    if tokens and usage.joules is not None:
        found.append(Quantity("joules_per_1k_tokens", 1000 * usage.joules / tokens, "J", "lower"))
    if tokens and price_per_hour is not None:
        dollars = price_per_hour * run.seconds / 3600 / tokens * 1e6
        found.append(Quantity("dollars_per_million_tokens", dollars, "$", "lower"))
    return found


def _generator(run: Replay) -> list[Quantity]:
    return [
        Quantity("generator_lag_ms", 1000 * run.lag, "ms", "lower"),
        Quantity("generator_cpu_share", run.generator_cpu_share, "cores", "lower"),
    ]


PER_TOKEN = re.compile(r"(?:tpot|itl)_.*|.*_per_1k_tokens|dollars_per_million_tokens")
TOKENS_PER_SECOND = ("output_throughput", "total_throughput", "output_tokens")


def in_other_tokens(measurement: Measurement, ratio: float) -> Measurement:
    """Converted to the tokens of another vocabulary, each of which equals `ratio` of these: a smaller vocabulary needs
    more tokens for the same text, which must not count as more throughput."""
    if ratio == 1.0:
        return measurement
    changed = {}
    for name, quantity in measurement.quantities.items():
        factor = 1 / ratio if name in TOKENS_PER_SECOND else ratio if PER_TOKEN.fullmatch(name) else 1.0
        changed[name] = replace(
            quantity, value=quantity.value * factor, raw=tuple(round(v * factor, 4) for v in quantity.raw)
        )
    return Measurement(measurement.subject, changed, {**measurement.conditions, "tokens_per_baseline_token": ratio})


def summary_rows(measurement: Measurement) -> list[tuple[str, str, Any]]:
    """(name, unit, value) of what a person wants to read first, in reading order."""
    points = [*(f"p{p}" for p in PERCENTILES), "max"]
    order = [f"{name}_{point}_ms" for name in ("ttft", "tpot", "itl", "e2e") for point in points]
    order += [
        "request_throughput",
        "output_throughput",
        "total_throughput",
        "goodput",
        "goodput_share",
        "failed_requests",
        "peak_memory_bytes",
        "cpu_seconds_per_1k_tokens",
        "joules_per_1k_tokens",
        "dollars_per_million_tokens",
        "generator_lag_ms",
        "generator_cpu_share",
    ]
    return [(n, measurement.quantities[n].unit, measurement[n]) for n in order if n in measurement]


def remarks(measurement: Measurement) -> list[str]:
    """What a reader must know beside the numbers: failures by reason, and how tokens were counted."""
    conditions = measurement.conditions
    found = [f"{count} failed: {reason}" for reason, count in conditions.get("failures", {}).items()]
    counted = conditions.get("tokens_counted_by", [])
    if "chunks" in counted:
        found.append("The server reports no usage: chunks were counted, not tokens; name a --tokenizer to count them.")
    if "tokenizer" in counted:
        found.append("The server reports no usage: the tokenizer counted the tokens of its answers.")
    if conditions.get("cached_answers"):
        found.append(f"{conditions['cached_answers']} answers came from a cache.")
    if conditions.get("empty_answers"):
        found.append(f"{conditions['empty_answers']} answers are empty: the model ended them with its first token.")
    if conditions.get("retried_connections"):
        found.append(f"{conditions['retried_connections']} kept connections had been closed and were opened anew.")
    return found
