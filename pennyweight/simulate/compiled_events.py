"""What each event does, compiled: requests come and leave, steps begin and end, replicas die and start."""

from __future__ import annotations

import numpy as np

from pennyweight.simulate.compiled import compiled
from pennyweight.simulate.compiled_blocks import clear, give_back
from pennyweight.simulate.compiled_queue import plan, push_pending, queue_first, queue_last, take_queued
from pennyweight.simulate.compiled_rank import wait_last
from pennyweight.simulate.compiled_replica import begin_steps, boundary, finish_steps, steps_until
from pennyweight.simulate.compiled_router import chosen, refresh, remember
from pennyweight.simulate.records import (
    GATEWAY,
    IS_DRAINING,
    IS_OFF,
    IS_READY,
    IS_STARTING,
    NEVER,
    PREFIX_AFFINITY,
    READY,
    STEP_END,
    STEP_START,
    Value,
    World,
)


@compiled
def arrive(world: World, number: int) -> None:
    one = world.request[number]
    pool = 1 if one.transferred else 0
    if pool == 0:
        world.run[0].arrived += one.prompt + one.output
    queue_last(world, pool, number)
    dispatch(world, pool)


@compiled
def dispatch(world: World, pool: int) -> None:
    while world.pool[pool].queued and world.counts[pool, 1]:
        number = take_queued(world, pool)
        send(world, pool, chosen(world, pool, number), number)


@compiled
def send(world: World, pool: int, slot: int, number: int) -> None:
    one, replica = world.request[number], world.replica[slot]
    one.slot = slot
    if pool == 0:
        one.cached = -1
    replica.requests += 1
    replica.outstanding += one.prompt + one.output
    if world.pool[pool].router in (GATEWAY, PREFIX_AFFINITY):
        remember(world, slot, number)
    best = replica.first_rank
    for rank in range(replica.first_rank + 1, replica.first_rank + world.pool[pool].ranks):
        if busy(world, rank) < busy(world, best):
            best = rank
    wait_last(world, best, number)
    refresh(world, slot)
    now = world.run[0].now
    if replica.key_time == NEVER:
        plan(world, slot, now, STEP_START)
    elif replica.key_phase == STEP_END and replica.steps > 1:
        state = world.rank[best]
        if state.waiting == 1 and state.running < world.pool[pool].max_num_seqs:
            replica.steps = steps_until(world, slot, now)
            plan(world, slot, boundary(world, slot, replica.steps), STEP_END)


@compiled
def busy(world: World, rank: int) -> Value:
    return 4 * world.rank[rank].waiting + world.rank[rank].running


@compiled
def begin(world: World, slot: int) -> None:
    replica = world.replica[slot]
    for rank in range(replica.first_rank, replica.first_rank + world.pool[replica.pool].ranks):
        if world.rank[rank].running or world.rank[rank].waiting:
            begin_steps(world, slot, world.run[0].now)
            plan(world, slot, boundary(world, slot, replica.steps), STEP_END)
            return
    plan(world, slot, NEVER, STEP_START)


@compiled
def end(world: World, slot: int, leaving: np.ndarray) -> None:
    replica = world.replica[slot]
    now, pool = world.run[0].now, replica.pool
    for rank in range(replica.first_rank, replica.first_rank + world.pool[pool].ranks):
        left = finish_steps(world, slot, rank, now, leaving)
        for place in range(left):
            one = world.request[leaving[place]]
            replica.requests -= 1
            replica.outstanding -= one.prompt + one.output
            leave(world, leaving[place])
    refresh(world, slot)
    if replica.state == IS_DRAINING and replica.requests == 0:
        switch_off(world, slot)
    else:
        plan(world, slot, now, STEP_START)
    dispatch(world, pool)


@compiled
def leave(world: World, number: int) -> None:
    one, run = world.request[number], world.run[0]
    if one.generated < one.output and run.pools == 2:
        one.last_token = np.nan
        one.transferred = 1
        push_pending(world, run.now + run.transfer * (one.prompt + one.generated - 1), number)
        return
    run.done += 1
    if run.next_closed < world.request.size:
        world.request[run.next_closed].arrival = run.now
        push_pending(world, run.now, run.next_closed)
        run.next_closed += 1


@compiled
def forget(world: World, slot: int) -> None:
    replica = world.replica[slot]
    limits = world.pool[replica.pool]
    for rank in range(replica.first_rank, replica.first_rank + limits.ranks):
        clear(world, rank, limits.num_kv_blocks)
    replica.requests = 0
    replica.outstanding = 0
    replica.lifetime += 1
    replica.sent = 0
    plan(world, slot, NEVER, STEP_START)


@compiled
def switch_off(world: World, slot: int) -> None:
    replica = world.replica[slot]
    forget(world, slot)
    replica.state = IS_OFF
    world.run[0].replica_seconds += world.run[0].now - replica.launched
    refresh(world, slot)


@compiled
def kill(world: World, slot: int) -> None:
    replica, run = world.replica[slot], world.run[0]
    if replica.state == IS_OFF:
        return
    lost = all_lost(world, slot)
    lost.sort()
    for place in range(lost.size - 1, -1, -1):
        restart(world, lost[place])
        queue_first(world, 0, lost[place])
    forget(world, slot)
    if replica.state == IS_DRAINING:
        switch_off(world, slot)
    else:
        replica.state = IS_STARTING
        plan(world, slot, run.now + world.pool[replica.pool].start_seconds, READY)
    refresh(world, slot)
    dispatch(world, 0)


@compiled
def all_lost(world: World, slot: int) -> np.ndarray:
    """The requests of a replica that dies; tokens of steps that have ended before stay generated."""
    replica = world.replica[slot]
    ended = 0
    if replica.key_phase == STEP_END and replica.jumping and replica.key_time < NEVER:
        ended = steps_until(world, slot, world.run[0].now) - 1
    lost, count = np.empty(replica.requests, dtype=np.int32), 0
    for rank in range(replica.first_rank, replica.first_rank + world.pool[replica.pool].ranks):
        state = world.rank[rank]
        for place in range(state.running):
            lost[count] = world.running[rank, place]
            world.request[lost[count]].generated += ended
            give_back(world, rank, lost[count])
            count += 1
        state.running = 0
        while state.waiting:
            lost[count] = state.first_waiting
            state.first_waiting = world.request[lost[count]].next
            state.waiting -= 1
            count += 1
    return lost


@compiled
def restart(world: World, number: int) -> None:
    one = world.request[number]
    one.transferred = 0
    if world.run[0].again or one.generated == 0:
        one.generated = 0
        one.admitted = np.nan
        one.first_token = np.nan


@compiled
def ready(world: World, slot: int) -> None:
    plan(world, slot, NEVER, STEP_START)
    world.replica[slot].state = IS_READY
    refresh(world, slot)
    dispatch(world, world.replica[slot].pool)


@compiled
def advance(world: World) -> None:
    """At the end: replicas that still run have cost until now."""
    run = world.run[0]
    for slot in range(world.replica.size):
        if world.replica[slot].state != IS_OFF:
            run.replica_seconds += run.now - world.replica[slot].launched
