"""Replay: when requests are due, what is noted of them, and when a run is thrown away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.errors import MeasurementVoid, UsageError, WorkloadError
from pennyweight.measure.client import Sampling, connect
from pennyweight.measure.record import Record
from pennyweight.measure.replay import Replay, replay, schedule, warm_up
from pennyweight.serve import Endpoint
from pennyweight.workload import Arrivals, Request, Workload


def requests(count: int, gap: float | None = None, max_tokens: int = 4) -> tuple[Request, ...]:
    return tuple(
        Request(f"r{n}", f"s{n}", max_tokens, prompt=f"prompt {n}", arrival=None if gap is None else 5 + n * gap)
        for n in range(count)
    )


# -- schedule --


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_recorded_times_are_kept_from_the_first_on_and_scaled(scale: float) -> None:
    due = schedule(requests(4, gap=2.0), Arrivals("recorded", time_scale=scale), 0)
    assert due == pytest.approx([0, 2 * scale, 4 * scale, 6 * scale])


def test_recorded_times_must_be_there() -> None:
    with pytest.raises(WorkloadError, match="--request-rate"):
        schedule(requests(2), Arrivals("recorded"), 0)


@given(seed=st.integers(0, 1000), rate=st.floats(0.1, 100), burstiness=st.floats(0.2, 5))
def test_times_begin_at_zero_never_go_back_and_depend_on_the_seed_alone(
    seed: int, rate: float, burstiness: float
) -> None:
    arrivals = Arrivals("gamma", request_rate=rate, burstiness=burstiness)
    due = schedule(requests(20), arrivals, seed)
    assert due[0] == 0 and due == sorted(due)
    assert due == schedule(requests(20), arrivals, seed) != schedule(requests(20), arrivals, seed + 1)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_rate_asked_for_and_the_spread_of_the_burstiness(burstiness: float) -> None:
    due = schedule(requests(20000), Arrivals("gamma", request_rate=8.0, burstiness=burstiness), 1)
    gaps = np.diff(due)
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.1)


def test_poisson_is_gamma_of_burstiness_one() -> None:
    poisson = schedule(requests(50), Arrivals("poisson", request_rate=3.0, burstiness=9.0), 2)
    assert poisson == schedule(requests(50), Arrivals("gamma", request_rate=3.0), 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "psychic"},
        {"kind": "poisson"},
        {"kind": "gamma", "request_rate": -1.0},
        {"max_concurrency": 0},
        {"burstiness": 0.0},
        {"time_scale": 0.0},
    ],
)
def test_arrivals_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        Arrivals(**wrong)


# -- spoiled runs --


def record(lag: float = 0.0, error: str | None = None) -> Record:
    return Record("r", 10.0, 10.0 + lag, [11.0, 12.0], 12.0, 3, 2, error=error)


def made(records: list[Record], heartbeats: tuple[float, ...] = (0.0,)) -> Replay:
    return Replay(tuple(records), 2.0, heartbeats, 0.1)


def test_a_clean_run_is_believed() -> None:
    run = made([record(0.001)] * 50 + [record(error="late")])
    run.refuse_if_empty()
    run.refuse_if_late()
    assert not run.is_late


@pytest.mark.parametrize("spoiled", [made([record(0.05)] * 10), made([record()] * 10, (0.05,) * 10)])
def test_a_late_generator_voids_the_run(spoiled: Replay) -> None:
    with pytest.raises(MeasurementVoid, match=r"by 50\.0 ms"):
        spoiled.refuse_if_late()


def test_a_run_without_an_answer_is_void_and_says_the_first_fault() -> None:
    with pytest.raises(MeasurementVoid, match=r"All 3 requests failed.*no such thing"):
        made([record(error="no such thing")] * 3).refuse_if_empty()


def test_answers_that_are_all_empty_have_no_speed() -> None:
    empty = record()
    empty.output_tokens = 0
    made([record(), empty]).refuse_if_empty()
    with pytest.raises(MeasurementVoid, match="All 2 answers are empty"):
        made([empty, empty]).refuse_if_empty()


def test_times_of_a_record_are_those_of_the_definitions() -> None:
    seen = Record("r", 1.0, 1.5, [2.0, 2.5, 4.0], 4.0, 3, 5)
    assert (seen.ttft, seen.e2e, seen.tpot, seen.itl, seen.lag) == (0.5, 2.5, 0.5, [0.5, 1.5], 0.5)
    assert Record("r", 0, 0, [1.0], 1.0, 3, 1).tpot is None


# -- replaying --


def run(endpoint: Endpoint, workload: Workload, arrivals: Arrivals, progress: list | None = None) -> Replay:
    async def go() -> Replay:
        async with connect(endpoint.base_url, endpoint.model, timeout=20) as client:
            note = (lambda done, total: None) if progress is None else (lambda *count: progress.append(count))
            return await replay(client, workload, arrivals, Sampling(), progress=note)

    return asyncio.run(go())


ARRIVALS = [
    Arrivals("closed", max_concurrency=3),
    Arrivals("poisson", request_rate=100.0),
    Arrivals("recorded", time_scale=0.1),
]


@pytest.mark.parametrize("arrivals", ARRIVALS, ids=lambda a: a.kind)
def test_every_request_is_sent_and_answered(scripted_endpoint: Endpoint, arrivals: Arrivals) -> None:
    result = run(scripted_endpoint, Workload("w", requests(10, gap=0.1)), arrivals)
    assert {r.id for r in result.records} == {f"r{n}" for n in range(10)}
    assert [r.error for r in result.records] == [None] * 10
    assert all(r.output_tokens == 4 and r.finish_reason == "length" and r.text for r in result.records)
    assert all(r.scheduled <= r.sent <= r.chunks[0] <= r.chunks[-1] <= r.finished for r in result.records)


@pytest.mark.parametrize("arrivals", ARRIVALS, ids=lambda a: a.kind)
def test_progress_counts_finished_requests_one_by_one(scripted_endpoint: Endpoint, arrivals: Arrivals) -> None:
    counts: list[tuple[int, int]] = []
    run(scripted_endpoint, Workload("w", requests(6, gap=0.1)), arrivals, counts)
    assert counts == [(n, 6) for n in range(1, 7)]


def test_recorded_gaps_are_kept(scripted_endpoint: Endpoint) -> None:
    result = run(scripted_endpoint, Workload("w", requests(3, gap=0.2)), Arrivals("recorded"))
    sent = [r.sent for r in result.records]
    assert np.diff(sent) == pytest.approx([0.2, 0.2], abs=0.08)


def test_a_request_that_fails_is_noted_and_the_others_go_on(scripted_endpoint: Endpoint) -> None:
    mixed = (*requests(3), Request("long", "s", 9999, prompt="x"))
    result = run(scripted_endpoint, Workload("w", mixed), Arrivals(max_concurrency=2))
    assert len(result.succeeded) == 3
    (failed,) = [r for r in result.records if r.error]
    assert failed.id == "long" and "HTTP 400" in str(failed.error) and "512" in str(failed.error)


def test_warming_up_against_nobody_is_void() -> None:
    async def go() -> None:
        async with connect("http://127.0.0.1:9", "model", timeout=5) as client:
            await warm_up(client, Workload("w", requests(1)), Sampling())

    with pytest.raises(MeasurementVoid, match="failed already"):
        asyncio.run(go())


# -- servers that are not ours --


@contextmanager
def foreign(body: bytes) -> Iterator[Endpoint]:
    """A server that answers every request with these bytes as an event stream."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}", "model")
    finally:
        server.shutdown()
        server.server_close()


EVENT = b'data: {"choices":[{"index":0,"text":"ab","finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    "body",
    [
        EVENT + b"\n\ndata: [DONE]\n\n",
        EVENT + b"\r\n\r\ndata: [DONE]\r\n\r\n",  # what sse-starlette sends
        EVENT.replace(b"data: ", b"data:") + b"\n\ndata:[DONE]\n\n",
        b": ping\n\n" + EVENT + b"\n\ndata: [DONE]\n\n",
    ],
    ids=["lf", "crlf", "no space", "comment"],
)
def test_every_spelling_of_server_sent_events_is_read(body: bytes) -> None:
    with foreign(body) as endpoint:
        (seen,) = run(endpoint, Workload("w", requests(1)), Arrivals()).records
    assert (seen.error, seen.text, seen.finish_reason) == (None, "ab", "stop")


@pytest.mark.parametrize(
    "body", [b"data: {broken\n\n", b"data: 5\n\n", b"", b"<html>", b'data: {"error":{"message":"out of luck"}}\n\n']
)
def test_whatever_a_server_answers_a_failure_is_written_into_the_record(body: bytes) -> None:
    with foreign(body) as endpoint:
        (seen,) = run(endpoint, Workload("w", requests(1)), Arrivals()).records
    assert seen.error
