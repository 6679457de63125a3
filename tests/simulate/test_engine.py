"""The scheduler's rules, in cases that can be followed by hand; both simulations."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pennyweight.simulate import (
    Disaggregation,
    Failure,
    Pool,
    RequestTable,
    Router,
    SimulatedCluster,
    SimulatedRun,
    simulate,
)
from pennyweight.simulate.cluster import AfterFailure
from pennyweight.step_price import ReplicaLimits, StepPrice

ONE_SECOND = StepPrice(1.0, 0.0, 0.0, 0.0)
WIDE = ReplicaLimits(8, 64, 100, block_size=4, start_seconds=5.0)


@pytest.fixture(params=[True, False], ids=["plain", "compiled"])
def plain(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def cluster(limits: ReplicaLimits = WIDE, price: StepPrice = ONE_SECOND, **more: Any) -> SimulatedCluster:
    return SimulatedCluster(Pool(more.pop("replicas", 1), price, limits), **more)


def run(table: RequestTable, whole: SimulatedCluster, plain: bool, router: Router = Router.GATEWAY) -> SimulatedRun:
    return simulate(whole, table, router=router, plain=plain)


def hashed(table: RequestTable, chains: list[list[int]], size: int) -> RequestTable:
    return dataclasses.replace(
        table,
        block_hashes=np.array([name for chain in chains for name in chain], dtype=np.int64),
        block_starts=np.cumsum([0, *(len(chain) for chain in chains)]),
        hashed_block_size=size,
    )


def test_a_request_alone(plain: bool) -> None:
    """A prompt of 100 tokens takes two steps of 64, the second ends with the first token."""
    found = run(RequestTable.of_lengths([3.0], [100], [4]), cluster(), plain)
    assert (found.first_token[0], found.last_token[0], found.tpot[0]) == (5.0, 8.0, 1.0)


def test_the_price_counts_what_a_step_does(plain: bool) -> None:
    """Chunks of 64 and 36 tokens with their pairs, and one decoding token with its context of 101."""
    price = StepPrice(1.0, 0.5, 0.25, 0.125, 0.0625)
    found = run(RequestTable.of_lengths([0.0], [100], [2]), cluster(price=price), plain)
    first = 1 + 64 / 8 + (64 * 65 / 2) / 16
    second = 1 + 36 / 8 + (36 * 64 + 36 * 37 / 2) / 16
    assert found.first_token[0] == first + second
    assert found.last_token[0] - found.first_token[0] == 1 + 0.5 + 101 / 4


def test_an_arrival_joins_at_the_next_step(plain: bool) -> None:
    """The first decodes alone from 1.0 on; one that comes at 10.5 is read from 11.0 on."""
    found = run(RequestTable.of_lengths([0.0, 10.5], [4, 4], [50, 2]), cluster(), plain)
    assert list(found.admitted) == [0.0, 11.0]
    assert list(found.first_token) == [1.0, 12.0]
    assert list(found.last_token) == [50.0, 13.0]


def test_an_arrival_at_the_end_of_a_step_joins_at_once(plain: bool) -> None:
    found = run(RequestTable.of_lengths([0.0, 10.0], [4, 4], [50, 2]), cluster(), plain)
    assert found.admitted[1] == 10.0


def test_decoding_comes_before_prompts(plain: bool) -> None:
    """A budget of 4 a step: the second prompt of 9 tokens gets 3 beside the first one's token."""
    limits = dataclasses.replace(WIDE, max_num_batched_tokens=4)
    found = run(RequestTable.of_lengths([0.0, 0.0], [4, 9], [9, 1]), cluster(limits), plain)
    assert list(found.first_token) == [1.0, 4.0]


def test_no_more_sequences_than_allowed(plain: bool) -> None:
    limits = dataclasses.replace(WIDE, max_num_seqs=1)
    found = run(RequestTable.of_lengths([0.0, 0.0], [4, 4], [5, 1]), cluster(limits), plain)
    assert list(found.admitted) == [0.0, 5.0]


def test_the_last_admitted_is_preempted_and_read_again(plain: bool) -> None:
    """Six blocks of 4 tokens. Two sequences of 8 tokens take a third block each, and then the first one a fourth: the
    second is preempted before its 6th token, and waits until the first is done."""
    limits = dataclasses.replace(WIDE, num_kv_blocks=6)
    found = run(RequestTable.of_lengths([0.0, 0.0], [8, 8], [8, 8]), cluster(limits), plain)
    assert list(found.preemptions) == [0, 1]
    assert list(found.last_token) == [8.0, 11.0]


def test_prompts_share_their_first_blocks(plain: bool) -> None:
    """The second skips two blocks of 8 tokens; the third is wholly cached, and computes its last block again."""
    table = hashed(
        RequestTable.of_lengths([0.0, 30.0, 60.0], [24, 24, 16], [1, 1, 1]), [[1, 2, 3], [1, 2, 4], [1, 2]], 8
    )
    price = StepPrice(0.0, 0.0, 1.0, 1.0)
    found = run(table, cluster(price=price), plain)
    assert list(found.cached_tokens) == [0, 16, 8]
    assert list(found.first_token - found.admitted) == [24.0, 8.0, 8.0]


def test_the_longest_unused_blocks_are_evicted(plain: bool) -> None:
    """Four units of 8 tokens fit. The third request evicts one: the last unit of the first request, not its first."""
    limits = dataclasses.replace(WIDE, num_kv_blocks=8)
    chains = [[1, 2], [5], [6, 7], [1, 2, 9]]
    table = hashed(RequestTable.of_lengths([0.0, 10.0, 20.0, 30.0], [17, 8, 16, 25], [1, 1, 1, 1]), chains, 8)
    assert list(run(table, cluster(limits), plain).cached_tokens) == [0, 0, 0, 8]


def test_ranks_wait_for_the_slowest(plain: bool) -> None:
    """Two ranks, one request each: every step lasts as long as that of the longer context."""
    price = StepPrice(0.0, 0.0, 1.0, 1.0)
    limits = dataclasses.replace(WIDE, data_parallel_size=2)
    found = run(RequestTable.of_lengths([0.0, 0.0], [20, 10], [3, 3]), cluster(limits, price), plain)
    assert list(found.last_token) == [20 + 21 + 22, 20 + 21 + 22]


def test_arrivals_wait_in_the_router_while_no_replica_runs(plain: bool) -> None:
    found = run(RequestTable.of_lengths([2.0], [4], [1]), cluster(failures=(Failure(0, 1.0),)), plain)
    assert found.admitted[0] == 6.0  # 1 s and 5 s to start
    assert found.replica_seconds == 7.0


@pytest.mark.parametrize(("after", "ends"), [(AfterFailure.CONTINUE, 25.5), (AfterFailure.AGAIN, 30.5)])
def test_a_killed_replica(plain: bool, after: AfterFailure, ends: float) -> None:
    """It dies in the sixth step: five tokens were made. The other replica reads on, or starts anew, at once."""
    table = RequestTable.of_lengths([0.0], [4], [25])
    both = cluster(replicas=2, failures=(Failure(0, 5.5),), after_failure=after)
    found = run(table, both, plain)
    assert (found.replica[0], found.last_token[0]) == (1, ends)
    assert found.first_token[0] == (1.0 if after is AfterFailure.CONTINUE else 6.5)


def test_prefill_and_decode_pools(plain: bool) -> None:
    """One step to read, 8 tokens times 0.25 s on the way, and four steps for the other tokens."""
    pools = cluster(disaggregation=Disaggregation(Pool(1, ONE_SECOND, WIDE), 0.25))
    found = run(RequestTable.of_lengths([0.0], [8], [5]), pools, plain)
    assert (found.first_token[0], found.last_token[0], found.replica[0]) == (1.0, 7.0, 1)


def test_a_closed_loop_asks_when_it_is_answered(plain: bool) -> None:
    found = run(RequestTable.of_lengths([0.0] * 4, [4] * 4, [3, 5, 2, 1]).closed_loop(2), cluster(), plain)
    assert list(found.arrival) == [0.0, 0.0, 3.0, 5.0]


def test_a_bound_keeps_requests_in_the_router(plain: bool) -> None:
    """One at a time at each of two replicas: what is free first gets the next."""
    bounded = cluster(replicas=2, max_requests_per_replica=1)
    found = run(RequestTable.of_lengths([0.0] * 4, [4] * 4, [3, 5, 4, 1]), bounded, plain)
    assert list(found.replica) == [0, 1, 0, 1]
    assert list(found.admitted) == [0.0, 0.0, 3.0, 5.0]


def test_a_request_that_fits_nowhere_is_rejected(plain: bool) -> None:
    found = run(RequestTable.of_lengths([0.0, 0.0], [400, 4], [2, 2]), cluster(), plain)
    assert list(found.rejected) == [True, False]
    assert found.measurement(goodput={"ttft": 5000})["failed_requests"] == 1
    assert found.measurement(goodput={"ttft": 5000})["goodput_share"] == 0.5
