"""The page, Prometheus' figures and `pw bench` say the same of one load, within 5%."""

from __future__ import annotations

import asyncio
import statistics

import pytest

from pennyweight.measure.client import Sampling, connect
from pennyweight.measure.replay import Replay, replay
from pennyweight.workload import Arrivals, Request, Workload
from tests.serve.gateway.gateways import Start
from tests.serve.gateway.test_promises import figure

TOLERANCE = 0.05
LOAD = Workload("load", tuple(Request(f"r{n}", f"s{n}", 20 + n % 20, prompt=f"Tell me about {n}") for n in range(40)))


@pytest.mark.slow
@pytest.mark.measures
def test_page_and_prometheus_agree_with_the_bench(start: Start) -> None:
    gateway = start(max_num_seqs=4, step_ms=15.0, prefill_ms=80.0)
    model = gateway.status["models"][0]

    async def measured() -> Replay:
        async with connect(gateway.base_url, model) as client:
            return await replay(client, LOAD, Arrivals("closed", max_concurrency=4), Sampling())

    run = asyncio.run(measured())
    records, page = run.succeeded, gateway.status["lately"]
    tokens = sum(record.output_tokens for record in records)
    first, whole = [record.ttft for record in records], [record.e2e for record in records]
    assert figure(gateway, "generation_tokens_total") == tokens
    assert (
        figure(gateway, "e2e_request_latency_seconds_count") == page["requests"] == len(records) == len(LOAD.requests)
    )
    for name, values in (("time_to_first_token", first), ("e2e_request_latency", whole)):
        assert figure(gateway, f"{name}_seconds_sum") / len(values) == pytest.approx(
            statistics.mean(values), rel=TOLERANCE
        )
    assert page["ttft_ms"]["p50"] == pytest.approx(1000 * statistics.median(first), rel=TOLERANCE)
    assert page["e2e_ms"]["p50"] == pytest.approx(1000 * statistics.median(whole), rel=TOLERANCE)
    assert page["tokens_per_s"] == pytest.approx(tokens / run.seconds, rel=TOLERANCE)
    assert page["requests_per_s"] == pytest.approx(len(records) / run.seconds, rel=TOLERANCE)
