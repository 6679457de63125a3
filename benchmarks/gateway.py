"""What the gateway costs, with the scripted engine: added latency and throughput against asking the engine directly,
and against LiteLLM's proxy in front of the same engine, memory of open streams, hits in a full cache, and a soak.

    python -m benchmarks.gateway [latency|throughput|rival|streams|cache|soak …] [--rounds 3] [--minutes 20]
                                 [--litellm DIR]

`--litellm` is a virtual environment with `litellm[proxy]`. Targets: first token at most 1 ms (p50) and 3 ms (p99) later
at 50 requests/s, at most 5% of the throughput at 32 streams, 5 times LiteLLM's requests/s with a fifth of its latency,
a hit under 2 ms among 100,000 entries, flat memory and file descriptors in the soak.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from pennyweight import checkpoint, formats, techniques
from pennyweight.deployment import Deployment
from pennyweight.errors import MeasurementVoid
from pennyweight.measure.client import Sampling
from pennyweight.measure.speed import measure_speed
from pennyweight.measurement import Measurement
from pennyweight.processes import free_port
from pennyweight.serve import Endpoint, open_engine
from pennyweight.serve.gateway.cache_store import Entry, SQLiteStore
from pennyweight.serve.gateway.exact_cache import key_of
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.workload import Arrivals, Request, Workload

PARTS = ("latency", "throughput", "rival", "streams", "cache", "soak")
RATE, ENTRIES, STREAMS = 50.0, 100_000, 1000
START_SECONDS = 120.0


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def scripted(**settings: Any) -> Deployment:
    """Written answers with SmolLM2's tokenizer."""
    model = techniques.apply(Dequantize(), checkpoint.open_model("demo"))
    return Deployment("scripted", str(model.path), model.id, "BF16", {"max_num_seqs": 1024, **settings})


def requests(count: int, tokens: int) -> Workload:
    made = (Request(f"{n}", f"{n}", tokens, prompt_tokens=tuple(range(100 + n, 140 + n))) for n in range(count))
    return Workload("scripted", tuple(made))


@contextmanager
def gateway(deployment: Deployment, *words: object) -> Iterator[tuple[Endpoint, psutil.Process]]:
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory() as directory:
        formats.write_deployment(Path(directory), deployment)
        command = [sys.executable, "-m", "pennyweight", "serve", directory, "--port", str(port), *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], START_SECONDS)[0], "the gateway did not start"
            try:
                yield Endpoint(f"http://127.0.0.1:{port}", "model"), psutil.Process(process.pid)
            finally:
                process.terminate()
                process.wait(60)


@contextmanager
def litellm(place: Path, engine: str) -> Iterator[Endpoint]:
    """LiteLLM's proxy, one worker, in front of an engine."""
    port = free_port("127.0.0.1")
    parameters = {"model": "openai/model", "api_base": f"{engine}/v1", "api_key": "none"}
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        served = [{"model_name": "model", "litellm_params": parameters}]
        general = {"dangerously_permit_weak_or_unset_master_key": True}  # on loopback, as ours is
        config.write_text(json.dumps({"model_list": served, "general_settings": general}))
        command = [str(place / "bin" / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}
        log = (Path(directory) / "log").open("wb")
        with subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **quiet}) as process:
            deadline = time.monotonic() + START_SECONDS
            while not answers(f"http://127.0.0.1:{port}/health/liveliness"):
                assert time.monotonic() < deadline and process.poll() is None, (Path(directory) / "log").read_text()[
                    -2000:
                ]
                time.sleep(0.5)
            try:
                yield Endpoint(f"http://127.0.0.1:{port}", "model")
            finally:
                process.terminate()
                process.wait(30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def speed(endpoint: Endpoint, load: Workload, arrivals: Arrivals) -> Measurement:
    for _ in range(3):
        try:
            return measure_speed(endpoint, load, arrivals, Sampling(ignore_eos=True))
        except MeasurementVoid as spoiled:
            void = spoiled
    raise void


def in_turns(
    endpoints: Sequence[Endpoint], rounds: int, look: Callable[[Endpoint], Measurement]
) -> list[list[Measurement]]:
    """One row a round, in changing order, so that the machine's moods fall on all of them."""
    rows = []
    for number in range(rounds):
        order = list(enumerate(endpoints))[:: 1 if number % 2 == 0 else -1]
        found = {place: look(endpoint) for place, endpoint in order}
        rows.append([found[place] for place in range(len(endpoints))])
    return rows


def latency(rounds: int) -> None:
    """First token at 50 requests/s, directly and through the gateway."""
    deployment, load = scripted(step_ms=5.0), requests(600, 8)
    with open_engine(deployment) as direct, gateway(deployment) as (through, _):
        rows = in_turns([direct, through], rounds, lambda e: speed(e, load, Arrivals("poisson", request_rate=RATE)))
    for name in ("ttft_p50_ms", "ttft_p99_ms"):
        added = [after[name] - before[name] for before, after in rows]
        say(
            part="latency",
            quantity=name,
            direct=[round(before[name], 2) for before, _ in rows],
            added=[round(a, 2) for a in added],
            median=round(statistics.median(added), 2),
        )


def throughput(rounds: int) -> None:
    """32 streams of an engine that takes 20 ms a step, as a real one of 1,600 tokens/s would."""
    deployment, load = scripted(step_ms=20.0, max_num_seqs=32), requests(192, 64)
    with open_engine(deployment) as direct, gateway(deployment) as (through, _):
        rows = in_turns([direct, through], rounds, lambda e: speed(e, load, Arrivals("closed", max_concurrency=32)))
    ratios = [after["output_throughput"] / before["output_throughput"] for before, after in rows]
    say(
        part="throughput",
        streams=32,
        tokens_per_s=[round(before["output_throughput"]) for before, _ in rows],
        ratios=[round(r, 3) for r in ratios],
        median=round(statistics.median(ratios), 3),
    )


def rival(rounds: int, place: Path) -> None:
    deployment = scripted()
    few, many = requests(200, 4), requests(400, 4)
    with ExitStack() as stack:
        direct = stack.enter_context(open_engine(deployment))
        ours, _ = stack.enter_context(gateway(deployment))
        theirs = stack.enter_context(litellm(place, direct.base_url))
        slow = in_turns([direct, ours, theirs], rounds, lambda e: speed(e, few, Arrivals("closed", max_concurrency=1)))
        fast = in_turns([ours, theirs], rounds, lambda e: speed(e, many, Arrivals("closed", max_concurrency=16)))
    added = [[row[n]["ttft_p50_ms"] - row[0]["ttft_p50_ms"] for n in (1, 2)] for row in slow]
    share = statistics.median(mine / other for mine, other in added)
    say(
        part="rival",
        what="first token later, one stream, ms",
        ours=[round(mine, 2) for mine, _ in added],
        litellm=[round(other, 2) for _, other in added],
        share=round(share, 3),
    )
    rates = [[measured["request_throughput"] for measured in row] for row in fast]
    times = statistics.median(mine / other for mine, other in rates)
    say(
        part="rival",
        what="requests/s, 16 streams",
        ours=[round(mine) for mine, _ in rates],
        litellm=[round(other) for _, other in rates],
        times=round(times, 2),
    )


async def opened(url: str, count: int, hold: asyncio.Event, on_open: Callable[[], None]) -> None:
    """So many streams, all open until they are let go."""
    body = {"model": "model", "prompt": "a b c", "max_tokens": 400, "stream": True, "ignore_eos": True}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> None:
            async with session.post(f"{url}/v1/completions", json={**body, "prompt": f"{number} a b c"}) as answer:
                assert answer.status == 200, await answer.text()
                await answer.content.readany()
                on_open()
                await hold.wait()

        await asyncio.gather(*(one(number) for number in range(count)))


def streams() -> None:
    """1,000 at once, and what each takes of the gateway's memory."""
    with gateway(scripted(step_ms=500.0), "--max-queue", 2 * STREAMS) as (through, process):

        async def work() -> tuple[int, int]:
            before, open_now, hold = process.memory_info().rss, 0, asyncio.Event()

            def count() -> None:
                nonlocal open_now
                open_now += 1
                if open_now == STREAMS:
                    hold.set()

            task = asyncio.create_task(opened(through.base_url, STREAMS, hold, count))
            most = before
            while not task.done():
                await asyncio.sleep(0.1)
                most = max(most, process.memory_info().rss)
            await task
            return before, most

        before, most = asyncio.run(work())
    say(
        part="streams",
        at_once=STREAMS,
        kib_per_stream=round((most - before) / STREAMS / 1024, 1),
        mib=round(most / 2**20),
    )


def cache(rounds: int) -> None:
    """Hits among 100,000 entries, one after the other over one connection, and what a bare /health takes."""
    deployment = scripted()
    body = {"model": "model", "prompt": "cached", "max_tokens": 4, "temperature": 0}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "cache.db"
        asyncio.run(fill(file, deployment, body))
        with gateway(deployment, "--cache", file, "--cache-size", "4GiB") as (through, _):
            for _ in range(rounds):
                hits, bare = asyncio.run(ask(through.base_url, body))
                say(
                    part="cache",
                    entries=ENTRIES,
                    hit_p50_ms=round(statistics.median(hits), 3),
                    hit_p99_ms=round(sorted(hits)[int(0.99 * len(hits))], 3),
                    health_p50_ms=round(statistics.median(bare), 3),
                )


async def fill(file: Path, deployment: Deployment, body: dict[str, Any]) -> None:
    store = SQLiteStore(file, 10**6, 2**32)
    for number in range(ENTRIES):
        key = key_of("anybody", deployment.id, "/v1/completions", {**body, "prompt": f"cached {number}"})
        store.put(key, Entry("application/json", b'{"choices": []}' + b" " * 1000, time.time()))
    await store.close()


async def ask(url: str, body: dict[str, Any], count: int = 500) -> tuple[list[float], list[float]]:
    hits, bare = [], []
    async with aiohttp.ClientSession() as session:
        for number in range(count):
            began = time.perf_counter()
            asked = {**body, "prompt": f"cached {number * 199 % ENTRIES}"}
            async with session.post(f"{url}/v1/completions", json=asked) as answer:
                await answer.read()
                assert answer.headers["x-pennyweight-cache"] == "hit", answer.headers
            hits.append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            async with session.get(f"{url}/health") as answer:
                await answer.read()
            bare.append(1000 * (time.perf_counter() - began))
    return hits, bare


def soak(minutes: float) -> None:
    """Steady load; memory and file descriptors of the gateway once a minute."""
    load, deadline = requests(600, 16), time.monotonic() + 60 * minutes
    with gateway(scripted(step_ms=5.0)) as (through, process):
        while time.monotonic() < deadline:
            try:
                first_token = round(speed(through, load, Arrivals("poisson", request_rate=20.0))["ttft_p99_ms"], 1)
            except MeasurementVoid:  # a busy machine makes the times void and the memory none the less true
                first_token = None
            say(
                part="soak",
                minutes_left=round((deadline - time.monotonic()) / 60, 1),
                descriptors=process.num_fds(),
                mib=round(process.memory_info().rss / 2**20, 1),
                ttft_p99_ms=first_token,
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=20.0, help="of the soak")
    parser.add_argument("--litellm", type=Path, help="a virtual environment with litellm[proxy]")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    work: dict[str, Callable[[], None]] = {
        "latency": lambda: latency(arguments.rounds),
        "throughput": lambda: throughput(arguments.rounds),
        "streams": streams,
        "cache": lambda: cache(arguments.rounds),
        "soak": lambda: soak(arguments.minutes),
    }
    if arguments.litellm:
        work["rival"] = lambda: rival(arguments.rounds, arguments.litellm)
    for part in parts:
        if part in work:
            work[part]()
        else:
            say(part=part, left_out="give --litellm")


if __name__ == "__main__":
    main()
