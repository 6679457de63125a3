"""Requests as arrays: from workloads and traces, at other times, and refused where they make no sense."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pennyweight import traces
from pennyweight.errors import UsageError, WorkloadError
from pennyweight.simulate import Autoscaling, Disaggregation, Failure, Pool, RequestTable, SimulatedCluster, simulate
from pennyweight.simulate.arrivals import arranged, poisson, sine
from pennyweight.step_price import ReplicaLimits, StepPrice
from pennyweight.workload import Arrivals, PromptShape, Request, Workload

PRICE, LIMITS = StepPrice(0.01, 1e-4, 1e-7, 1e-5), ReplicaLimits(4, 64, 100)


def shaped(name: str, tokens: int, hashes: tuple[str, ...], arrival: float) -> Request:
    return Request(name, "s", 5, shape=PromptShape(tokens, hashes, 16), arrival=arrival)


def test_a_hash_stands_for_what_is_before_it() -> None:
    requests = (
        shaped("1", 33, ("a", "b", "c"), 0.0),
        shaped("2", 32, ("a", "b"), 1.0),
        shaped("3", 32, ("x", "b"), 2.0),
    )
    table = RequestTable.of_workload(Workload("w", requests))
    assert table.block_hashes.tolist() == [0, 1, 0, 1, 2, 3]  # a part of a block is none; b after x is another block
    assert table.block_starts.tolist() == [0, 2, 4, 6]
    assert table.session.tolist() == [0, 0, 0]


def test_text_needs_a_tokenizer() -> None:
    workload = traces.load("chat")
    with pytest.raises(WorkloadError, match=r"text of unknown length.*name a tokenizer"):
        RequestTable.of_workload(workload)
    assert RequestTable.of_workload(workload, count_tokens=len).prompt_tokens.min() > 5


def test_thinned_and_faster() -> None:
    table = RequestTable.of_lengths(np.arange(10.0), [3] * 10, np.arange(1, 11))
    assert table.thinned(0.5).output_tokens.tolist() == [2, 4, 6, 8, 10]
    assert len(table.thinned(0.3)) == 3 and len(table.thinned(1.0)) == 10
    assert table.faster(2.0).arrival.tolist() == (np.arange(10) / 2).tolist()


def test_copies_share_only_the_most_frequent_block() -> None:
    requests = (shaped("1", 48, ("a", "b", "c"), 0.0), shaped("2", 32, ("a", "d"), 1.0))
    table = RequestTable.of_workload(Workload("w", requests)).repeated(3)
    assert table.arrival.tolist() == [0.0, 0.0, 1.0]
    assert table.block_hashes.tolist() == [0, 1, 2, 0, 5, 6, 0, 3]


def test_poisson_arrivals_are_seeded() -> None:
    times = poisson(20_000, 4.0, seed=1)
    assert (times == poisson(20_000, 4.0, seed=1)).all() and (times != poisson(20_000, 4.0, seed=2)).any()
    assert 20_000 / times[-1] == pytest.approx(4.0, rel=0.03)


def test_a_sine_has_its_rates() -> None:
    times = sine(100_000, 10.0, amplitude=0.5, period=1000.0, seed=1)
    phase = 2 * math.pi * times / 1000.0
    whole = times < 1000.0 * (times[-1] // 1000.0)
    assert whole.sum() / (1000.0 * (times[-1] // 1000.0)) == pytest.approx(10.0, rel=0.02)
    assert 2 * np.sin(phase[whole]).mean() == pytest.approx(0.5, abs=0.03)


def test_arranged_as_the_bench_sends() -> None:
    table = RequestTable.of_lengths([1.0, 3.0], [4, 4], [2, 2])
    assert arranged(table, Arrivals("recorded", time_scale=0.5)).arrival.tolist() == [0.5, 1.5]
    assert arranged(table, Arrivals("closed", max_concurrency=7)).clients == 7
    assert arranged(table, Arrivals("poisson", request_rate=3.0)).arrival.tolist() == poisson(2, 3.0).tolist()
    with pytest.raises(UsageError, match="closed arrivals only"):
        arranged(table, Arrivals("poisson", request_rate=3.0, max_concurrency=2))


@pytest.mark.skipif("PENNYWEIGHT_DATA" not in os.environ, reason="PENNYWEIGHT_DATA is not set: no traces")
@pytest.mark.parametrize("name", ["AzureLLMInferenceTrace_code.csv", "mooncake_conversation.jsonl"])
def test_real_traces(name: str) -> None:
    table = RequestTable.of_workload(traces.load(str(Path(os.environ["PENNYWEIGHT_DATA"]) / "traces" / name)))
    table = table.chosen(np.arange(300)).faster(0.1)
    run = simulate(SimulatedCluster(Pool(3, PRICE, dataclasses.replace(LIMITS, num_kv_blocks=20_000))), table)
    assert np.isfinite(run.last_token).all()
    assert (run.cached_tokens.sum() > 0) == ("mooncake" in name)


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        (([], [], []), "no requests"),
        (([0.0], [0], [1]), "prompt_tokens = 0"),
        (([0.0, 1.0], [1, 1], [1, 0]), "Request 1 .* output_tokens = 0"),
        (([1.0, 0.0], [1, 1], [1, 1]), "run backwards"),
        (([-1.0], [1], [1]), "negative"),
        (([math.nan], [1], [1]), "not finite"),
    ],
)
def test_bad_requests(columns: tuple[list[float], list[int], list[int]], fault: str) -> None:
    with pytest.raises(WorkloadError, match=fault):
        RequestTable.of_lengths(*columns)


def test_columns_of_one_length() -> None:
    with pytest.raises(UsageError, match="differ in length"):
        RequestTable.of_lengths([0.0], [1, 2], [1])


@pytest.mark.parametrize("name", ["step", "sequence", "context_token", "prompt_token", "prompt_pair"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_prices(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        Pool(1, dataclasses.replace(PRICE, **{name: value}), LIMITS)


def test_bad_clusters() -> None:
    pool = Pool(2, PRICE, LIMITS)
    with pytest.raises(UsageError, match="0 replicas"):
        Pool(0, PRICE, LIMITS)
    with pytest.raises(UsageError, match="in no time"):
        Pool(1, StepPrice(0.0, 0.0, 0.0, 1.0), LIMITS)
    for name in ("max_num_seqs", "max_num_batched_tokens", "num_kv_blocks", "block_size", "data_parallel_size"):
        with pytest.raises(UsageError, match=name):
            Pool(1, PRICE, dataclasses.replace(LIMITS, **{name: 0}))
    with pytest.raises(UsageError, match="Replica 2 cannot fail"):
        SimulatedCluster(pool, failures=(Failure(2, 1.0),))
    with pytest.raises(UsageError, match="do not scale"):
        SimulatedCluster(pool, disaggregation=Disaggregation(pool), autoscaling=Autoscaling(1, 2, 100.0))
    with pytest.raises(UsageError, match="outside autoscaling's"):
        SimulatedCluster(pool, autoscaling=Autoscaling(3, 4, 100.0))
    with pytest.raises(UsageError, match="from 4 to 3"):
        Autoscaling(4, 3, 100.0)


def test_nothing_fits() -> None:
    with pytest.raises(WorkloadError, match=r"No request .* \(1600 tokens\)"):
        simulate(SimulatedCluster(Pool(1, PRICE, LIMITS)), RequestTable.of_lengths([0.0], [1600], [2]))


def test_times_without_end() -> None:
    pool = Pool(1, dataclasses.replace(PRICE, step=1e308), LIMITS)
    for plain in (True, False):
        with pytest.raises(UsageError, match="leave the range of numbers"):
            simulate(SimulatedCluster(pool), RequestTable.of_lengths([0.0], [16], [20]), plain=plain)


def test_hashed_blocks_must_be_whole_kv_blocks() -> None:
    table = dataclasses.replace(RequestTable.of_lengths([0.0], [30], [2]), hashed_block_size=24)
    with pytest.raises(UsageError, match=r"blocks of 24 tokens.*another block_size"):
        simulate(SimulatedCluster(Pool(1, PRICE, LIMITS)), table)


def test_without_numba_the_install_line_is_told() -> None:
    code = (
        "import sys; sys.modules.update(numba=None, llvmlite=None)\n"
        "from pennyweight.simulate import Pool, RequestTable, SimulatedCluster, simulate\n"
        "from pennyweight.step_price import ReplicaLimits, StepPrice\n"
        "pool = Pool(1, StepPrice(0.01, 0.0, 0.0, 0.0), ReplicaLimits(1, 8, 8))\n"
        "simulate(SimulatedCluster(pool), RequestTable.of_lengths([0.0], [1], [1]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UsageError: The simulator needs numba" in ran.stderr and "pip install" in ran.stderr
