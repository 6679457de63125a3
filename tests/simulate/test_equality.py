"""The compiled simulation, which jumps, finds what the plain one finds step by step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pennyweight.errors import WorkloadError
from pennyweight.simulate import Pool, RequestTable, Router, SimulatedCluster, SimulatedRun, simulate
from pennyweight.simulate.arrivals import poisson
from pennyweight.step_price import ReplicaLimits, StepPrice
from tests.simulate.strategies import clusters, routers, tables

TIMES = ("arrival", "admitted", "first_token", "last_token")
COUNTS = ("replica", "preemptions", "cached_tokens")


def assert_equal(one: SimulatedRun, other: SimulatedRun) -> None:
    for name in COUNTS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in TIMES:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, err_msg=name)
    assert one.replica_seconds == pytest.approx(other.replica_seconds, rel=1e-9)
    assert one.seconds == pytest.approx(other.seconds, rel=1e-9)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(cluster=clusters(), table=tables(), router=routers, seed=st.integers(0, 3))
def test_jumps_change_nothing(cluster: SimulatedCluster, table: RequestTable, router: Router, seed: int) -> None:
    try:
        plain = simulate(cluster, table, router=router, seed=seed, plain=True)
    except WorkloadError:  # nothing fits
        return
    assert_equal(plain, simulate(cluster, table, router=router, seed=seed))


@pytest.mark.parametrize("router", list(Router))
@pytest.mark.parametrize("data_parallel_size", [1, 2])
def test_long_jumps_at_times_that_never_meet(router: Router, data_parallel_size: int) -> None:
    """Many requests, long answers, few KV blocks: hundreds of preemptions, at arrivals like those of real users."""
    random = np.random.default_rng(5)
    count = 250
    table = RequestTable.of_lengths(
        poisson(count, 9.0, seed=3), random.integers(1, 700, count), random.integers(1, 400, count)
    )
    families = random.integers(0, 9, count)
    table = dataclasses.replace(
        table,
        prompt_tokens=table.prompt_tokens + 5 * 32,
        block_hashes=(100 * families[:, None] + np.arange(5)).reshape(-1),
        block_starts=5 * np.arange(count + 1),
        hashed_block_size=32,
        session=random.integers(0, 40, count),
    )
    limits = ReplicaLimits(12, 256, 160, data_parallel_size=data_parallel_size)
    cluster = SimulatedCluster(Pool(4, StepPrice(0.0113, 1.7e-4, 3.1e-7, 1.9e-5, 2.3e-9), limits))
    plain = simulate(cluster, table, router=router, plain=True)
    assert_equal(plain, simulate(cluster, table, router=router))
    assert plain.preemptions.sum() > 20
