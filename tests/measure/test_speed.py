"""Speed: the scripted engine's known pace comes out as the quantities that it must give."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pennyweight import codec
from pennyweight.deployment import Deployment
from pennyweight.errors import MeasurementVoid, UsageError
from pennyweight.measure import replay, resources, speed
from pennyweight.measure.client import Sampling
from pennyweight.measure.speed import measure_speed, remarks, summary_rows
from pennyweight.measurement import Measurement
from pennyweight.serve import Endpoint, open_engine
from pennyweight.workload import Arrivals, Request, Workload

SHORT, LONG = 2, 20
WORKLOAD = Workload(
    "w", tuple(Request(f"r{n}", f"s{n}", LONG if n % 2 else SHORT, prompt=f"Tell me about {n}") for n in range(6))
)


@pytest.fixture(autouse=True)
def _busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' machine may be busy: whether a late run is void is test_replay's matter."""
    monkeypatch.setattr(replay, "LONGEST_LAG", 5.0)


@pytest.fixture(scope="module")
def paced(tokenizer_directory: Path) -> Iterator[Endpoint]:
    settings = {"step_ms": 20.0, "prefill_ms": 30.0, "memory_mib": 200}
    with open_engine(Deployment("scripted", str(tokenizer_directory), "tiny", "BF16", settings)) as endpoint:
        yield endpoint


def measure(endpoint: Endpoint, **wanted: Any) -> Measurement:
    return measure_speed(endpoint, WORKLOAD, Arrivals("closed", max_concurrency=1), Sampling(), **wanted)


@pytest.fixture(scope="module")
def measured(paced: Endpoint) -> Measurement:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "LONGEST_LAG", 5.0)
        return measure(paced, goodput={"e2el": 250.0}, price_per_hour=3.6)


def test_time_per_token_is_the_engines_step(measured: Measurement) -> None:
    assert 19 < measured["tpot_p50_ms"] < 35
    assert 19 < measured["itl_p50_ms"] < 35


def test_time_to_first_token_holds_the_prompt_and_one_step(measured: Measurement) -> None:
    assert 49 < measured["ttft_p50_ms"] < 100
    assert measured["ttft_p50_ms"] < measured["e2e_p50_ms"]


def test_output_tokens_are_counted(measured: Measurement) -> None:
    assert measured["output_tokens"] == 3 * SHORT + 3 * LONG
    assert measured["output_throughput"] == pytest.approx(measured["output_tokens"] / measured["duration_s"])
    assert measured["request_throughput"] == pytest.approx(6 / measured["duration_s"])
    assert measured["total_throughput"] > measured["output_throughput"]
    assert measured["failed_requests"] == 0


def test_goodput_counts_only_those_inside_the_limit(measured: Measurement) -> None:
    assert measured["goodput_share"] == 0.5
    assert measured["goodput"] == pytest.approx(3 / measured["duration_s"])


def test_a_price_becomes_dollars_for_a_million_tokens(measured: Measurement) -> None:
    expected = 3.6 / 3600 * measured["duration_s"] / measured["output_tokens"] * 1e6
    assert measured["dollars_per_million_tokens"] == pytest.approx(expected)


def test_memory_holds_what_the_engine_took(measured: Measurement, scripted_endpoint: Endpoint) -> None:
    lean = measure(scripted_endpoint)
    assert 150 << 20 < measured["peak_memory_bytes"] - lean["peak_memory_bytes"] < 450 << 20


def test_conditions_say_what_was_run(measured: Measurement) -> None:
    assert measured.conditions["workload_id"] == WORKLOAD.id
    assert measured.conditions["requests"] == 6
    assert measured.conditions["arrivals"]["max_concurrency"] == 1
    assert measured.conditions["warm_up_requests"] >= 3


def test_a_summary_shows_only_what_was_measured(measured: Measurement) -> None:
    names = [name for name, _, _ in summary_rows(measured)]
    assert "goodput" in names and "dollars_per_million_tokens" in names
    assert all(name in measured for name in names) and len(set(names)) == len(names)


def test_a_server_that_is_not_ours_has_no_memory_and_no_price(scripted_endpoint: Endpoint) -> None:
    foreign = measure(Endpoint(scripted_endpoint.base_url, scripted_endpoint.model))
    for name in ("peak_memory_bytes", "cpu_seconds_per_1k_tokens", "joules_per_1k_tokens"):
        assert name not in foreign
    assert "dollars_per_million_tokens" not in foreign
    assert foreign["output_tokens"] == 3 * SHORT + 3 * LONG


def test_joules_are_absent_without_a_counter(
    scripted_endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "POWERCAP", tmp_path)
    assert "joules_per_1k_tokens" not in measure(scripted_endpoint)


def test_joules_are_those_spent_during_the_run(
    scripted_endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "POWERCAP", tmp_path)
    energy = tmp_path / "intel-rapl:0" / "energy_uj"
    energy.parent.mkdir()
    energy.write_text("7000000")

    def spend(done: int, total: int) -> None:
        energy.write_text(str(7_000_000 + done * 1_000_000))

    found = measure(scripted_endpoint, progress=spend)
    assert found["joules_per_1k_tokens"] == pytest.approx(1000 * 6 / found["output_tokens"])


def test_single_token_answers_have_no_time_per_token(scripted_endpoint: Endpoint) -> None:
    single = Workload("w", (Request("r", "s", 1, prompt="hello"),))
    found = measure_speed(scripted_endpoint, single, Arrivals(), Sampling())
    assert "tpot_p50_ms" not in found and "itl_p50_ms" not in found
    assert "ttft_p50_ms" in found


def test_an_unknown_slo_is_refused_before_a_request_is_sent() -> None:
    with pytest.raises(UsageError, match="'speed'"):
        measure(Endpoint("http://127.0.0.1:9", "model"), goodput={"speed": 1.0})


def test_a_wrong_model_name_voids_the_run(scripted_endpoint: Endpoint) -> None:
    with pytest.raises(MeasurementVoid, match="gpt-9"):
        measure(Endpoint(scripted_endpoint.base_url, "gpt-9"))


def test_a_measurement_survives_json(measured: Measurement) -> None:
    assert codec.value_of(Measurement, codec.plain(measured), "here") == measured


@pytest.mark.parametrize(("late_runs", "accept", "kept"), [(2, False, True), (9, True, True), (9, False, False)])
def test_a_late_run_is_repeated_then_kept_with_a_mark_or_void(
    late_runs: int, accept: bool, kept: bool, paced: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    said: list[str] = []

    async def spoiled(*arguments: Any, **more: Any) -> replay.Replay:
        run = await replay.replay(*arguments, **more)
        runs.append(len(runs))
        return replace(run, heartbeats=(9.0 if len(runs) <= late_runs else 0.0,))

    monkeypatch.setattr(speed, "replay", spoiled)
    monkeypatch.setattr(speed, "LATE_PAUSE_SECONDS", 0.0)
    wanted: dict[str, Any] = {"late_retries": 2, "accept_late": accept, "say": said.append}
    if kept:
        assert ("late_generator_ms" in measure(paced, **wanted).conditions) == accept
    else:
        with pytest.raises(MeasurementVoid, match="late"):
            measure(paced, **wanted)
    assert len(runs) == 3 and len(said) == 2 and "Measuring again (2 of 2)" in said[1]


# -- servers of others --


class Server:
    """An OpenAI server in a thread, which answers every request with the same bytes."""

    def __init__(self, body: bytes, headers: str = "", delay: float = 0.0) -> None:
        self.body, self.headers, self.delay = body, headers, delay

    def __enter__(self) -> Endpoint:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.server = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result()
        return Endpoint(f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}", "model")

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        await reader.readexactly(length)
        await asyncio.sleep(self.delay)
        writer.write(
            f"HTTP/1.1 200 OK\r\ncontent-length: {len(self.body)}\r\n{self.headers}connection: close\r\n\r\n".encode()
        )
        writer.write(self.body)
        await writer.drain()
        writer.close()


def stream(*texts: str, end: bool = True) -> bytes:
    events = [{"choices": [{"text": text}]} for text in texts]
    if end:
        events.append({"choices": [{"text": "", "finish_reason": "stop"}]})
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def test_a_run_answered_by_a_cache_is_void() -> None:
    with Server(stream("a", "b"), "x-pennyweight-cache: hit\r\n") as endpoint:
        with pytest.raises(MeasurementVoid, match="6 of 6 requests from a cache"):
            measure(endpoint)
        assert measure(endpoint, accept_cached=True).conditions["cached_answers"] == 6


def test_streams_that_are_cut_off_are_no_success() -> None:
    with Server(stream("a", "b", end=False)) as endpoint, pytest.raises(MeasurementVoid, match="without finish_reason"):
        measure(endpoint)


def test_without_usage_the_result_says_how_tokens_were_counted() -> None:
    with Server(stream("one two", " three")) as endpoint:
        chunks = measure(endpoint)
        counted = measure(endpoint, count_tokens=lambda text: len(text.split()))
    assert (chunks["output_tokens"], chunks.conditions["tokens_counted_by"]) == (12, ["chunks"])
    assert (counted["output_tokens"], counted.conditions["tokens_counted_by"]) == (18, ["tokenizer"])
    assert any("no usage" in remark for remark in remarks(chunks))


def test_the_time_limit_is_the_callers_and_named() -> None:
    with Server(stream("a"), delay=0.5) as endpoint, pytest.raises(MeasurementVoid, match=r"no answer within 0\.1 s"):
        measure(endpoint, request_timeout=0.1)
