"""What theory says of simple clusters, and what a result reports."""

from __future__ import annotations

import numpy as np
import pytest

from pennyweight.errors import UsageError
from pennyweight.simulate import Autoscaling, Pool, RequestTable, Router, SimulatedCluster, simulate
from pennyweight.simulate.arrivals import poisson, sine
from pennyweight.step_price import ReplicaLimits, StepPrice

PRICE = StepPrice(0.01, 1e-4, 1e-7, 1e-5)


def test_a_queue_with_one_server_waits_as_pollaczek_and_khinchine_say() -> None:
    """M/D/1 at a load of 0.8: half of M/M/1's wait."""
    count = 400_000
    limits = ReplicaLimits(1, 2**20, 2**20)
    cluster = SimulatedCluster(Pool(1, StepPrice(1.0, 0.0, 0.0, 0.0), limits))
    table = RequestTable.of_lengths(poisson(count, 0.8, seed=3), np.ones(count), np.ones(count))
    run = simulate(cluster, table, router=Router.LEAST_OUTSTANDING)
    assert (run.admitted - run.arrival).mean() == pytest.approx(0.8 / (2 * 0.2), rel=0.05)


def test_littles_law_and_the_measurement() -> None:
    """Requests in the system are the arrival rate times their time in it; the names are those of `pw bench`."""
    count = 5_000
    random = np.random.default_rng(0)
    table = RequestTable.of_lengths(poisson(count, 20.0), random.integers(1, 300, count), random.integers(1, 90, count))
    run = simulate(SimulatedCluster(Pool(4, PRICE, ReplicaLimits(16, 512, 4_000))), table)
    found = run.measurement("s", goodput={"ttft": 1e6, "tpot": 1e6, "e2el": 1e6}, price_per_hour=3.6)
    assert all(quantity.predicted for quantity in found.quantities.values())
    for name in ("ttft", "tpot", "e2e"):
        assert found[f"{name}_p50_ms"] <= found[f"{name}_p99_ms"] <= found[f"{name}_max_ms"]
    assert found["ttft_mean_ms"] == pytest.approx(1000 * (run.first_token - run.arrival).mean())
    assert found["output_throughput"] == pytest.approx(table.output_tokens.sum() / found["duration_s"])
    assert found["request_throughput"] == found["goodput"] == pytest.approx(20.0, rel=0.1)
    assert found["goodput_share"] == 1.0 and found["failed_requests"] == 0
    assert found["replica_seconds"] == pytest.approx(4 * run.seconds)
    assert found["dollars_per_million_tokens"] == pytest.approx(
        1e6 * 0.001 * run.replica_seconds / table.output_tokens.sum()
    )
    with pytest.raises(UsageError, match="knows no 'itl'"):
        run.meets({"itl": 3.0})


def test_autoscaling_follows_a_sine() -> None:
    """Cheaper than enough replicas for the peak, better than enough for the mean, and never below the minimum."""
    count = 30_000
    table = RequestTable.of_lengths(
        sine(count, 15.0, amplitude=0.8, period=1000.0), np.full(count, 200), np.full(count, 100)
    )
    limits = ReplicaLimits(8, 512, 4_000, start_seconds=30.0)

    def cost_and_good(replicas: int, policy: Autoscaling | None) -> tuple[float, float]:
        run = simulate(SimulatedCluster(Pool(replicas, PRICE, limits), autoscaling=policy), table)
        assert run.replica_seconds >= 2 * run.seconds
        return run.replica_seconds, float(run.meets({"ttft": 1000.0}).mean())

    scaled = cost_and_good(4, Autoscaling(minimum=2, maximum=20, tokens_per_second=1900.0, spare=0))
    peak, mean = cost_and_good(6, None), cost_and_good(3, None)
    assert mean[1] < scaled[1] and scaled[1] > 0.95
    assert scaled[0] < peak[0]
