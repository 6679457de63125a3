"""The one way to simulate: check what is asked for, leave out what no replica can hold, run, and put the rows back."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError, WorkloadError
from pennyweight.simulate.cluster import Pool, Router, SimulatedCluster
from pennyweight.simulate.outcome import Outcome
from pennyweight.simulate.plain import simulate_plainly
from pennyweight.simulate.request_table import Floats, Integers, RequestTable
from pennyweight.simulate.result import SimulatedRun
from pennyweight.simulate.world import memories_at_most, outcome_of_world, world_of

LARGEST = 2**30  # tokens, of one request


def simulate(
    cluster: SimulatedCluster,
    requests: RequestTable,
    *,
    router: Router = Router.GATEWAY,
    seed: int = 0,
    plain: bool = False,
) -> SimulatedRun:
    """Serve the requests by the cluster. `seed` is for power-of-two's draws and session affinity's ring. `plain` runs
    the slow reference instead of the compiled simulation.

    A request that no replica's KV blocks can hold is rejected, as vLLM does, and the others are served.
    """
    router = Router(router)
    _check_blocks(cluster, requests)
    fitting = np.flatnonzero(_fits(cluster, requests))
    if not len(fitting):
        raise WorkloadError(
            f"No request of {requests.name!r} fits into a replica's KV blocks "
            f"({_capacity(cluster.pool)} tokens): give more num_kv_blocks."
        )
    table = requests if len(fitting) == len(requests) else requests.chosen(fitting)
    engine = simulate_plainly if plain else simulate_compiled
    outcome = engine(cluster, table, router=router, seed=seed)
    if not outcome.seconds < np.inf:
        raise UsageError("The simulated times leave the range of numbers: give a step price of a real replica.")
    return _with_rejected(requests, outcome, fitting, {"router": str(router), "seed": seed, "workload": requests.name})


def simulate_compiled(cluster: SimulatedCluster, table: RequestTable, *, router: Router, seed: int) -> Outcome:
    memories = memories_at_most(cluster, table)
    while True:
        world = world_of(cluster, table, router=router, seed=seed, memories=memories)
        _entry()(world)
        if not world.run[0]["full"]:
            return outcome_of_world(world)
        memories *= 2


@cache
def _entry() -> Callable[..., Any]:
    try:
        from pennyweight.simulate import compiled, compiled_loop
    except ModuleNotFoundError as error:
        if error.name not in ("numba", "llvmlite"):  # the second comes with the first
            raise
        raise UsageError("The simulator needs numba: install it with pip install 'pennyweight[simulate]'.") from None
    run_table = compiled_loop.entry(compiled.digest())
    return lambda world: run_table(compiled.table_of(world))


def _capacity(pool: Pool) -> int:
    return pool.limits.num_kv_blocks * pool.limits.block_size


def _fits(cluster: SimulatedCluster, table: RequestTable) -> NDArray[np.bool_]:
    """The last token's keys and values are never stored."""
    tokens = table.prompt_tokens + table.output_tokens - 1
    return tokens <= min(min(_capacity(pool) for pool in cluster.pools), LARGEST)


def _check_blocks(cluster: SimulatedCluster, table: RequestTable) -> None:
    size, limits = table.hashed_block_size, cluster.pool.limits
    if size and limits.prefix_caching and size % limits.block_size:
        raise UsageError(
            f"{table.name!r} has hashes of blocks of {size} tokens, which are no whole number of KV blocks of "
            f"{limits.block_size} tokens: give another block_size, or turn prefix_caching off."
        )


def _with_rejected(
    requests: RequestTable, outcome: Outcome, fitting: Integers, conditions: dict[str, object]
) -> SimulatedRun:
    def floats(values: Floats, default: Any = np.nan) -> Floats:
        whole = np.full(len(requests), default, dtype=np.float64)
        whole[fitting] = values
        return whole

    def integers(values: Integers, default: int) -> Integers:
        whole = np.full(len(requests), default, dtype=np.int64)
        whole[fitting] = values
        return whole

    arrival = floats(outcome.arrival)
    if not requests.clients:
        arrival = requests.arrival
    return SimulatedRun(
        requests=requests,
        arrival=arrival,
        admitted=floats(outcome.admitted),
        first_token=floats(outcome.first_token),
        last_token=floats(outcome.last_token),
        replica=integers(outcome.replica, -1),
        preemptions=integers(outcome.preemptions, 0),
        cached_tokens=np.maximum(0, integers(outcome.cached, 0)),
        replica_seconds=outcome.replica_seconds,
        seconds=outcome.seconds,
        conditions=conditions | {"requests": len(requests)},
    )
