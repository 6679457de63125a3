"""Autoscaling, compiled: plain.py's rules on arrays."""

from __future__ import annotations

import numpy as np

from pennyweight.simulate.compiled import compiled
from pennyweight.simulate.compiled_events import dispatch, switch_off
from pennyweight.simulate.compiled_queue import plan
from pennyweight.simulate.compiled_router import refresh
from pennyweight.simulate.records import IS_DRAINING, IS_OFF, IS_READY, IS_STARTING, READY, Value, World, whole
from pennyweight.simulate.scaling import rate_and_growth, wanted

target_for = compiled(wanted)
rate_for = compiled(rate_and_growth)


@compiled
def longest_wait(world: World) -> Value:
    longest, now = 0.0, world.run[0].now
    for rank in range(world.rank.size):
        if world.rank[rank].waiting:
            one = world.request[world.rank[rank].first_waiting]
            if np.isnan(one.admitted):
                longest = max(longest, now - one.arrival)
    if world.pool[0].queued:
        one = world.request[world.pool[0].first_queued]
        if np.isnan(one.admitted):
            longest = max(longest, now - one.arrival)
    return longest


@compiled
def set_replicas(world: World, running: int, target: int) -> None:
    run, pool = world.run[0], world.pool[0]
    for slot in range(pool.slots):
        if running < target and world.replica[slot].state == IS_DRAINING:
            running += 1
            world.replica[slot].state = IS_READY
            refresh(world, slot)
    for slot in range(pool.slots):
        if running < target and world.replica[slot].state == IS_OFF:
            running += 1
            world.replica[slot].state = IS_STARTING
            world.replica[slot].launched = run.now
            plan(world, slot, run.now + pool.start_seconds, READY)
    for slot in range(pool.slots - 1, -1, -1):
        state = world.replica[slot].state
        if running > target and state in (IS_STARTING, IS_READY):
            running -= 1
            if world.replica[slot].requests:
                world.replica[slot].state = IS_DRAINING
                refresh(world, slot)
            else:
                switch_off(world, slot)


@compiled
def arrived_at(world: World, tick: int) -> Value:
    """All tokens that had arrived at a tick; the one before the first was at time 0."""
    return world.arrived_before[tick % world.arrived_before.size] if tick >= 0 else 0.0


@compiled
def arriving(world: World) -> Value:
    run = world.run[0]
    first = min(whole(run.lag), run.tick + 1)
    second = min(2 * whole(run.lag), run.tick + 1) - first
    before, earlier = arrived_at(world, run.tick - first), arrived_at(world, run.tick - first - second)
    world.arrived_before[run.tick % world.arrived_before.size] = run.arrived
    return rate_for(run.arrived, before, earlier, (first, second), run.interval)


@compiled
def scale(world: World) -> None:
    run = world.run[0]
    tokens, running, starting = float(world.pool[0].queued_tokens), 0, 0
    for slot in range(world.replica.size):
        state = world.replica[slot].state
        tokens += world.replica[slot].outstanding
        running += state in (IS_STARTING, IS_READY)
        starting += state == IS_STARTING
    rate, growth = arriving(world)
    target = target_for(
        rate=rate,
        growth=growth,
        outstanding=tokens,
        waited=longest_wait(world),
        running=running,
        starting=starting,
        tokens_per_second=run.tokens_per_second,
        tokens_per_replica=run.tokens_per_replica,
        queue_seconds=run.queue_seconds,
    )
    world.targets[run.tick % run.patience] = min(max(target + run.spare, run.minimum), run.maximum)
    set_replicas(world, running, world.targets.max())
    run.tick += 1
    run.next_tick = (run.tick + 1) * run.interval
    dispatch(world, 0)
