"""From a cluster and requests to the arrays of the compiled simulation, and back to its outcome."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pennyweight.simulate import records
from pennyweight.simulate.cluster import AfterFailure, Pool, Router, SimulatedCluster
from pennyweight.simulate.outcome import Outcome
from pennyweight.simulate.plain_router import PROMPT_TOKENS, REPLICA_TOKENS, decode_router
from pennyweight.simulate.records import World
from pennyweight.simulate.request_table import RequestTable
from pennyweight.simulate.ring import ring, session_places
from pennyweight.simulate.scaling import ticks

REMEMBERING = (Router.GATEWAY, Router.PREFIX_AFFINITY)


def world_of(cluster: SimulatedCluster, table: RequestTable, *, router: Router, seed: int, memories: int) -> World:
    """`memories`: blocks at replicas that the router can remember."""
    pools = _pools(cluster, table, router)
    replicas = _replicas(cluster, pools)
    ranks = _ranks(pools)
    names, hashes = np.unique(table.block_hashes, return_inverse=True)
    trees = _trees(pools)
    kills = np.array(sorted((one.seconds, one.replica) for one in cluster.failures), dtype=np.float64).reshape(-1, 2)
    run = _run(cluster, table, seed)
    units = _units(pools[0], len(hashes))
    rings = [ring(int(pool["slots"]), seed) for pool in pools if router is Router.SESSION_AFFINITY]
    _place_rings(pools, rings)
    remembers = router in REMEMBERING and len(hashes) > 0
    return World(
        run=run,
        pool=pools,
        replica=replicas,
        rank=ranks,
        request=_requests(table),
        running=np.zeros((len(ranks), int(pools["max_num_seqs"].max())), dtype=np.int32),
        hashes=hashes.astype(np.int32).reshape(-1),
        unit=units,
        unit_buckets=np.full(_table_size(len(units)), -1, dtype=np.int32),
        memory=np.zeros(memories if remembers else 1, dtype=records.MEMORY),
        memory_table=np.full(_table_size(memories if remembers else 1), -1, dtype=np.int32),
        memory_heads=np.full(max(1, len(names)), -1, dtype=np.int32),
        heap=np.arange(len(replicas), dtype=np.int32),
        pending_time=np.zeros(len(table) if table.clients or len(pools) == 2 else 1, dtype=np.float64),
        pending_request=np.zeros(len(table) if table.clients or len(pools) == 2 else 1, dtype=np.int32),
        least=trees[0],
        largest=trees[1],
        counts=trees[2],
        ring_places=np.concatenate([np.empty(0, dtype=np.int64), *(places for places, _ in rings)]),
        ring_owners=np.concatenate([np.empty(0, dtype=np.int64), *(owners for _, owners in rings)]),
        kill_time=kills[:, 0].copy(),
        kill_slot=kills[:, 1].astype(np.int64),
        arrived_before=np.zeros(2 * int(run["lag"][0]), dtype=np.float64),
        targets=np.zeros(int(run["patience"][0]), dtype=np.int64),
    )


def memories_at_most(cluster: SimulatedCluster, table: RequestTable) -> int:
    """Blocks at replicas, if every request is sent once and few are sent again."""
    first = np.minimum(np.diff(table.block_starts), _beginning(table)).sum()
    return int(first) + 1024 * (1 + len(cluster.failures))


def outcome_of_world(world: World) -> Outcome:
    request, run = world.request, world.run[0]
    return Outcome(
        arrival=request["arrival"].copy(),
        admitted=request["admitted"].copy(),
        first_token=request["first_token"].copy(),
        last_token=request["last_token"].copy(),
        replica=request["slot"].astype(np.int64),
        preemptions=request["preemptions"].astype(np.int64),
        cached=request["cached"].astype(np.int64),
        replica_seconds=float(run["replica_seconds"]),
        seconds=float(run["now"]),
    )


def _beginning(table: RequestTable) -> int:
    return PROMPT_TOKENS // table.hashed_block_size if table.hashed_block_size else 0


def _table_size(entries: int) -> int:
    """A power of two, at most half full."""
    return 1 << max(1, 2 * entries - 1).bit_length()


def _pools(cluster: SimulatedCluster, table: RequestTable, router: Router) -> NDArray[Any]:
    made = np.zeros(len(cluster.pools), dtype=records.POOL)
    first = 0
    for number, pool in enumerate(cluster.pools):
        slots = pool.replicas if number else cluster.slots - sum(other.replicas for other in cluster.pools[1:])
        _fill_pool(made[number], pool, table.hashed_block_size, first=first, slots=slots)
        kind = decode_router(router) if number else router
        made[number]["router"] = list(Router).index(kind)
        made[number]["shares"] = not number and bool(table.hashed_block_size) and pool.limits.prefix_caching
        made[number]["only_first"] = not number and len(cluster.pools) == 2
        first += slots
    made["leaf"] = 1 << int(made["slots"].max() - 1).bit_length()
    made["last"] = -1
    return made


def _fill_pool(row: Any, pool: Pool, hashed_block_size: int, *, first: int, slots: int) -> None:
    for name in ("step", "sequence", "context_token", "prompt_token", "prompt_pair"):
        row[name] = getattr(pool.price, name)
    for name in ("max_num_seqs", "max_num_batched_tokens", "num_kv_blocks", "block_size", "start_seconds"):
        row[name] = getattr(pool.limits, name)
    row["first"], row["slots"], row["ranks"] = first, slots, pool.limits.data_parallel_size
    row["unit_tokens"] = hashed_block_size
    row["unit_blocks"] = hashed_block_size // pool.limits.block_size


def _replicas(cluster: SimulatedCluster, pools: NDArray[Any]) -> NDArray[Any]:
    made = np.zeros(cluster.slots, dtype=records.REPLICA)
    made["key_time"], made["key_phase"] = records.NEVER, records.STEP_START
    made["place"] = np.arange(len(made))
    rank = 0
    for number, pool in enumerate(pools):
        first, slots, ranks = int(pool["first"]), int(pool["slots"]), int(pool["ranks"])
        made["pool"][first : first + slots] = number
        made["first_rank"][first : first + slots] = rank + ranks * np.arange(slots)
        made["state"][first : first + cluster.pools[number].replicas] = records.IS_READY
        rank += slots * ranks
    return made


def _ranks(pools: NDArray[Any]) -> NDArray[Any]:
    counts = pools["slots"] * pools["ranks"]
    made = np.zeros(int(counts.sum()), dtype=records.RANK)
    made["free"] = np.repeat(pools["num_kv_blocks"], counts)
    made["oldest_unused"] = made["newest_unused"] = -1
    return made


def _requests(table: RequestTable) -> NDArray[Any]:
    made = np.zeros(len(table), dtype=records.REQUEST)
    made["arrival"] = 0.0 if table.clients else table.arrival
    for name in ("admitted", "first_token", "last_token"):
        made[name] = np.nan
    made["session_place"] = session_places(table.session)
    made["block_start"], made["blocks"] = table.block_starts[:-1], np.diff(table.block_starts)
    made["prompt"], made["output"] = table.prompt_tokens, table.output_tokens
    made["cached"] = made["slot"] = made["next"] = -1
    return made


def _units(pool: Any, hashes: int) -> NDArray[Any]:
    """Room for all that the KV blocks of the pool can hold, or all that can be asked for, each request by one rank."""
    size = 1
    if pool["shares"]:
        held = int(pool["slots"]) * int(pool["ranks"]) * (int(pool["num_kv_blocks"]) // int(pool["unit_blocks"]))
        size = max(1, min(held, hashes))
    made = np.zeros(size, dtype=records.UNIT)
    made["chain"] = np.arange(1, size + 1)
    made["chain"][-1] = -1
    return made


def _trees(pools: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Filled by the entry, from every replica's state."""
    shape = (len(pools), 2 * int(pools["leaf"].max()))
    least = np.full(shape, records.LARGEST, dtype=np.int64)
    return least, np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)


def _place_rings(pools: NDArray[Any], rings: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> None:
    start = 0
    for pool, (places, _) in zip(pools, rings, strict=False):
        pool["ring_start"], pool["ring_length"] = start, len(places)
        start += len(places)


def _run(cluster: SimulatedCluster, table: RequestTable, seed: int) -> NDArray[Any]:
    run = np.zeros(1, dtype=records.RUN)
    known = min(table.clients, len(table)) if table.clients else len(table)
    run["known"] = run["next_closed"] = known
    run["seed"], run["pools"], run["bound"] = seed, len(cluster.pools), cluster.max_requests_per_replica
    run["again"] = cluster.after_failure is AfterFailure.AGAIN
    if cluster.disaggregation:
        run["transfer"] = cluster.disaggregation.transfer_seconds_per_token
    run["beginning"] = _beginning(table)
    run["remembered"] = REPLICA_TOKENS // table.hashed_block_size if table.hashed_block_size else 0
    run["next_tick"], run["lag"], run["patience"] = records.NEVER, 1, 1
    policy = cluster.autoscaling
    if policy:
        for name in (
            "interval",
            "tokens_per_second",
            "tokens_per_replica",
            "queue_seconds",
            "minimum",
            "maximum",
            "spare",
        ):
            run[name] = getattr(policy, name)
        run["next_tick"] = policy.interval
        run["lag"] = ticks(cluster.pool.limits.start_seconds, policy.interval)
        run["patience"] = ticks(policy.patience, policy.interval)
    return run
