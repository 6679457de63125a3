"""Random clusters and requests. All numbers are multiples of a power of two, so that sums of them are exact and events
that meet at one time meet in the plain and in the compiled simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from pennyweight.simulate import Autoscaling, Disaggregation, Failure, Pool, RequestTable, Router, SimulatedCluster
from pennyweight.simulate.cluster import AfterFailure
from pennyweight.step_price import ReplicaLimits, StepPrice

HASHED_BLOCK = 8  # tokens


def exact(low: int, high: int, parts: int = 256) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda number: number / parts)


@st.composite
def prices(draw: st.DrawFn) -> StepPrice:
    return StepPrice(
        step=draw(exact(1, 512)),
        sequence=draw(exact(0, 64)),
        context_token=draw(exact(0, 8, 1024)),
        prompt_token=draw(exact(0, 8)),
        prompt_pair=draw(exact(0, 4, 1024)),
    )


@st.composite
def limits(draw: st.DrawFn) -> ReplicaLimits:
    return ReplicaLimits(
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(1, 40)),
        num_kv_blocks=draw(st.integers(6, 40)),
        block_size=draw(st.sampled_from([1, 2, 4, 8])),
        prefix_caching=draw(st.booleans()),
        data_parallel_size=draw(st.sampled_from([1, 1, 2, 3])),
        start_seconds=draw(exact(0, 4096)),
    )


@st.composite
def tables(draw: st.DrawFn, most: int = 24) -> RequestTable:
    count = draw(st.integers(1, most))
    gaps = draw(st.lists(exact(0, 2048), min_size=count, max_size=count))
    prompts = draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    outputs = draw(st.lists(st.integers(1, 80), min_size=count, max_size=count))
    hashes = [_chain(draw, prompt // HASHED_BLOCK) for prompt in prompts]
    sessions = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    return RequestTable(
        arrival=np.cumsum(gaps),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        session=np.array(sessions),
        block_hashes=np.array([name for chain in hashes for name in chain], dtype=np.int64),
        block_starts=np.cumsum([0, *(len(chain) for chain in hashes)]),
        hashed_block_size=HASHED_BLOCK,
        clients=draw(st.sampled_from([0, 0, 0, 1, 3])),
    )


def _chain(draw: st.DrawFn, blocks: int) -> list[int]:
    """Hashes of a prompt that shares its beginning with others: each hash stands for all blocks before it too."""
    family = draw(st.integers(0, 2))
    shared = draw(st.integers(0, blocks))
    own = 1 + 10 * draw(st.integers(0, 2)) + shared
    return [10_000 * family + (100 * own if place >= shared else 0) + place for place in range(blocks)]


@st.composite
def clusters(draw: st.DrawFn) -> SimulatedCluster:
    pool = Pool(draw(st.integers(1, 5)), draw(prices()), draw(limits()))
    kind = draw(st.sampled_from(["plain", "plain", "scaling", "two pools"]))
    more: dict[str, Any] = {}
    slots = pool.replicas
    if kind == "scaling":
        maximum = pool.replicas + draw(st.integers(0, 3))
        more["autoscaling"] = Autoscaling(
            minimum=draw(st.integers(1, pool.replicas)),
            maximum=maximum,
            tokens_per_second=draw(st.sampled_from([1.0, 16.0, 64.0, 1024.0])),
            tokens_per_replica=draw(st.sampled_from([1e18, 64.0, 512.0])),
            queue_seconds=draw(exact(0, 512)),
            interval=draw(exact(128, 4096)),
            patience=draw(exact(0, 8192)),
            spare=draw(st.integers(0, 1)),
        )
        slots = maximum
    if kind == "two pools":
        decode = Pool(draw(st.integers(1, 3)), draw(prices()), draw(limits()))
        more["disaggregation"] = Disaggregation(decode, draw(exact(0, 16)))
        slots += decode.replicas
    failure = st.builds(Failure, st.integers(0, slots - 1), exact(0, 20_000))
    return SimulatedCluster(
        pool,
        failures=tuple(draw(st.lists(failure, max_size=3))),
        after_failure=draw(st.sampled_from(AfterFailure)),
        max_requests_per_replica=draw(st.sampled_from([0, 0, 1, 3])),
        **more,
    )


routers = st.sampled_from(Router)
