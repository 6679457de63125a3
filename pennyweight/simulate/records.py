"""The state of the compiled simulation: arrays of records. Numbers of requests, replicas (slots), ranks and pools are
places in these arrays; -1 is none."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Value = Any  # what compiled code returns: numba finds its type
whole: Any = np.int64
NEVER = np.inf
LARGEST = np.iinfo(np.int64).max
KILL, READY, ARRIVAL, TICK, STEP_END, STEP_START = range(6)  # as plain.Phase
IS_OFF, IS_STARTING, IS_READY, IS_DRAINING = range(4)  # as plain_replica.State
GATEWAY, ROUND_ROBIN, POWER_OF_TWO, LEAST_OUTSTANDING, PREFIX_AFFINITY, SESSION_AFFINITY = range(6)  # as Router


def _record(**kinds: str) -> np.dtype[Any]:
    """A record type: names by kind of number."""
    names = [(name, kind) for kind, text in kinds.items() for name in text.split()]
    return np.dtype(names, align=True)


REQUEST = _record(  # what every step reads comes first, so that it shares a line of the processor's cache
    i4="prompt output generated computed private units scheduled blocks",
    f8="arrival admitted first_token last_token",
    i8="session_place block_start",
    int32="preemptions cached slot next transferred",
)
RANK = _record(i4="running waiting first_waiting last_waiting free unused oldest_unused newest_unused")
REPLICA = _record(
    f8="key_time launched step_began first_seconds growth",
    i8="outstanding sent",
    i4="state key_phase place pool first_rank requests steps jumping lifetime",
)
UNIT = _record(i4="hash rank holders before after chain")
MEMORY = _record(i8="sent_at", i4="hash slot lifetime next")
POOL = _record(
    f8="step sequence context_token prompt_token prompt_pair start_seconds",
    i8="queued_tokens ring_start ring_length",
    i4=(
        "first slots ranks max_num_seqs max_num_batched_tokens num_kv_blocks block_size unit_blocks unit_tokens shares "
        "only_first router last queued first_queued last_queued leaf"
    ),
)
RUN = _record(
    f8="now replica_seconds transfer interval next_tick arrived tokens_per_second tokens_per_replica queue_seconds",
    i8="seed",
    i4=(
        "done known next_closed next_arrival next_kill pending bound again pools tick minimum maximum spare lag "
        "patience free_unit used_memory beginning remembered full"
    ),
)


Records = Any  # arrays of records, whose fields are attributes in compiled code


class World(NamedTuple):
    """Everything that the compiled simulation reads and writes. `trees` are binary trees over the replicas of each pool
    that take requests: the least load, the largest load and the count below every node."""

    run: Records
    pool: Records
    replica: Records
    rank: Records
    request: Records
    running: NDArray[np.int32]  # rank, place
    hashes: NDArray[np.int32]
    unit: Records
    unit_buckets: NDArray[np.int32]
    memory: Records
    memory_table: NDArray[np.int32]
    memory_heads: NDArray[np.int32]  # the newest memory of each hash
    heap: NDArray[np.int32]  # slots by their next event
    pending_time: NDArray[np.float64]  # a heap of arrivals that were not known at the start
    pending_request: NDArray[np.int32]
    least: NDArray[np.int64]
    largest: NDArray[np.int64]
    counts: NDArray[np.int64]
    ring_places: NDArray[np.int64]
    ring_owners: NDArray[np.int64]
    kill_time: NDArray[np.float64]
    kill_slot: NDArray[np.int64]
    arrived_before: NDArray[np.float64]
    targets: NDArray[np.int64]
