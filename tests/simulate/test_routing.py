"""The compiled router chooses as the plain one, which asks the gateway's own function."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight import balancing
from pennyweight.simulate import Failure, Pool, RequestTable, Router, SimulatedCluster, simulate
from pennyweight.simulate.cluster import AfterFailure
from pennyweight.simulate.random_numbers import drawn, mixed
from pennyweight.simulate.ring import _mixed
from pennyweight.simulate.world import world_of
from pennyweight.step_price import ReplicaLimits, StepPrice

SLOW = StepPrice(1.0, 0.0, 0.0, 0.0)
LIMITS = ReplicaLimits(64, 4096, 4000)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_gateways_choice(data: st.DataObject) -> None:
    """Every request arrives before any is answered, so the loads and what is known follow from the earlier choices;
    `balancing.choose` is asked here for each, and must find what the compiled router chose."""
    count = data.draw(st.integers(2, 30))
    replicas = data.draw(st.integers(1, 7))
    blocks = data.draw(st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=count, max_size=count))
    chains = [[int("1" + "".join(map(str, chain[: n + 1]))) for n in range(len(chain))] for chain in blocks]
    extra = data.draw(st.lists(st.integers(1, 300), min_size=count, max_size=count))
    table = RequestTable.of_lengths(
        np.zeros(count), [16 * len(c) + n for c, n in zip(chains, extra, strict=True)], extra
    )
    table = dataclasses.replace(
        table,
        block_hashes=np.array([name for chain in chains for name in chain], dtype=np.int64),
        block_starts=np.cumsum([0, *(len(chain) for chain in chains)]),
        hashed_block_size=16,
    )
    run = simulate(SimulatedCluster(Pool(replicas, SLOW, LIMITS)), table, router=Router.GATEWAY)
    outstanding = [0] * replicas
    seen: list[set[int]] = [set() for _ in range(replicas)]
    for number, chain in enumerate(chains):
        known = [next((n for n, name in enumerate(chain) if name not in one), len(chain)) for one in seen]
        place = balancing.choose(outstanding, known)
        assert run.replica[number] == place
        outstanding[place] += int(table.prompt_tokens[number] + table.output_tokens[number])
        seen[place].update(chain)


def test_random_numbers_are_the_same_everywhere() -> None:
    values = np.arange(50, dtype=np.uint64) * np.uint64(0x123456789ABCDEF)
    assert [mixed(int(value)) for value in values] == [int(value) for value in _mixed(values)]
    from pennyweight.simulate import compiled_router

    for seed, place in ((0, 0), (3, 17), (2**40, 10**6)):
        assert compiled_router.drawn(seed, place, 1) == drawn(seed, place, 1)


def lengths(count: int, sessions: int = 1) -> RequestTable:
    table = RequestTable.of_lengths(np.zeros(count), [8] * count, [8] * count)
    return dataclasses.replace(table, session=np.arange(count) % sessions)


def test_round_robin_takes_turns() -> None:
    run = simulate(SimulatedCluster(Pool(3, SLOW, LIMITS)), lengths(7), router=Router.ROUND_ROBIN)
    assert list(run.replica) == [0, 1, 2, 0, 1, 2, 0]


def test_two_choices_are_seeded_and_spread() -> None:
    cluster = SimulatedCluster(Pool(10, SLOW, LIMITS))
    runs = [simulate(cluster, lengths(400), router=Router.POWER_OF_TWO, seed=seed) for seed in (1, 1, 2)]
    assert list(runs[0].replica) == list(runs[1].replica) != list(runs[2].replica)
    assert np.bincount(runs[0].replica, minlength=10).max() <= 45


def test_a_session_stays_and_only_those_of_a_lost_replica_move() -> None:
    """Replica 2 is lost before the second half comes."""
    table = lengths(200, sessions=50)
    table = table.at(np.where(np.arange(200) < 100, 0.0, 1.5))
    cluster = SimulatedCluster(Pool(5, SLOW, LIMITS), failures=(Failure(2, 1.25),), after_failure=AfterFailure.AGAIN)
    whole = simulate(SimulatedCluster(Pool(5, SLOW, LIMITS)), table, router=Router.SESSION_AFFINITY).replica
    lost = simulate(cluster, table, router=Router.SESSION_AFFINITY).replica
    assert all(len(set(whole[table.session == session])) == 1 for session in range(50))
    assert (whole == 2).any() and not (lost == 2).any()
    assert (lost[whole != 2] == whole[whole != 2]).all()


def test_a_full_memory_is_enlarged() -> None:
    """Many failures send the same requests to ever other replicas: more is remembered than was foreseen."""
    table = dataclasses.replace(
        RequestTable.of_lengths(np.zeros(40), [64] * 40, [400] * 40),
        block_hashes=np.arange(160),
        block_starts=4 * np.arange(41),
        hashed_block_size=16,
    )
    failures = tuple(Failure(number % 4, 1.0 + number / 2) for number in range(60))
    cluster = SimulatedCluster(Pool(4, SLOW, dataclasses.replace(LIMITS, start_seconds=0.25)), failures=failures)
    plain, fast = (simulate(cluster, table, plain=plain) for plain in (True, False))
    assert list(plain.replica) == list(fast.replica)
    small = world_of(cluster, table, router=Router.GATEWAY, seed=0, memories=8)
    assert len(small.memory) == 8


@pytest.mark.parametrize("router", list(Router))
def test_all_requests_are_answered(router: Router) -> None:
    run = simulate(SimulatedCluster(Pool(3, SLOW, LIMITS)), lengths(50, sessions=5), router=router)
    assert np.isfinite(run.last_token).all()
