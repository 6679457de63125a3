"""The scheduler of one rank, compiled: plain_rank.py's rules on arrays."""

from __future__ import annotations

import numpy as np

from pennyweight.simulate.compiled import compiled
from pennyweight.simulate.compiled_blocks import allocate, give_back, hold, share, unit_of
from pennyweight.simulate.records import Value, World, whole


@compiled
def blocks_for(tokens: int, block_size: int) -> Value:
    return (tokens + block_size - 1) // block_size


@compiled
def wait_last(world: World, rank: int, number: int) -> None:
    state = world.rank[rank]
    world.request[number].next = -1
    if state.waiting:
        world.request[state.last_waiting].next = number
    else:
        state.first_waiting = number
    state.last_waiting = number
    state.waiting += 1


@compiled
def wait_first(world: World, rank: int, number: int) -> None:
    state = world.rank[rank]
    world.request[number].next = state.first_waiting if state.waiting else -1
    if not state.waiting:
        state.last_waiting = number
    state.first_waiting = number
    state.waiting += 1


@compiled
def available(world: World, pool: int, rank: int) -> Value:
    return world.rank[rank].free + world.rank[rank].unused * world.pool[pool].unit_blocks


@compiled
def cached_units(world: World, pool: int, rank: int, number: int) -> tuple[Value, Value]:
    """How many of a request's first units need not be computed, and how many of these nobody holds."""
    one, size = world.request[number], world.pool[pool].unit_tokens
    total = one.prompt + one.generated
    found, unused = 0, 0
    if not world.pool[pool].shares:
        return found, unused
    while found < one.blocks and (found + 1) * size < total:
        entry = unit_of(world, rank, world.hashes[one.block_start + found])
        if entry < 0:
            break
        found += 1
        unused += world.unit[entry].holders == 0
    return found, unused


@compiled
def admission(world: World, pool: int, rank: int, number: int, budget: int) -> tuple[Value, Value, Value, Value]:
    """Cached units, tokens that need no step, tokens of the next step and blocks for them; these are -1 if not free."""
    one, limits = world.request[number], world.pool[pool]
    total = one.prompt + one.generated
    hits, unused, start = 0, 0, 0
    if one.transferred:
        start = total - 1
    else:
        hits, unused = cached_units(world, pool, rank, number)
        start = hits * limits.unit_tokens
    new = min(total - start, budget)
    need = blocks_for(start + new, limits.block_size) - hits * limits.unit_blocks
    if need > available(world, pool, rank) - unused * limits.unit_blocks:
        need = -1
    return hits, start, new, need


@compiled
def take(world: World, pool: int, rank: int, number: int, new: int, need: int) -> None:
    one, limits = world.request[number], world.pool[pool]
    allocate(world, rank, need, limits.unit_blocks)
    one.private += need
    one.scheduled = new
    if limits.shares:
        while one.units < one.blocks and (one.units + 1) * limits.unit_tokens <= one.computed + new:
            share(world, rank, world.hashes[one.block_start + one.units], limits.unit_blocks)
            one.private -= limits.unit_blocks
            one.units += 1


@compiled
def schedule_running(world: World, pool: int, rank: int) -> tuple[Value, Value]:
    """The budget that is left, and whether a sequence was preempted."""
    limits, state = world.pool[pool], world.rank[rank]
    budget, preempted, place = whole(limits.max_num_batched_tokens), False, 0
    while place < state.running and budget > 0:
        number = world.running[rank, place]
        one = world.request[number]
        new = min(one.prompt + one.generated - one.computed, budget)
        need = blocks_for(one.computed + new, limits.block_size) - one.units * limits.unit_blocks - one.private
        while need > available(world, pool, rank):
            victim = world.running[rank, state.running - 1]
            state.running -= 1
            give_back(world, rank, victim)
            world.request[victim].preemptions += 1
            wait_first(world, rank, victim)
            preempted = True
            if victim == number:
                return budget, True
        take(world, pool, rank, number, new, need)
        budget -= new
        place += 1
    for other in range(place, state.running):
        world.request[world.running[rank, other]].scheduled = 0
    return budget, preempted


@compiled
def admit(world: World, pool: int, rank: int, budget: int, now: float) -> None:
    limits, state = world.pool[pool], world.rank[rank]
    while state.waiting and budget > 0 and state.running < limits.max_num_seqs:
        number = state.first_waiting
        one = world.request[number]
        hits, start, new, need = admission(world, pool, rank, number, budget)
        if need < 0:
            return
        state.first_waiting = one.next
        state.waiting -= 1
        for place in range(hits):
            hold(world, unit_of(world, rank, world.hashes[one.block_start + place]))
        one.computed, one.units, one.transferred = start, hits, 0
        if one.cached < 0:
            one.cached = hits * limits.unit_tokens
        if np.isnan(one.admitted):
            one.admitted = now
        take(world, pool, rank, number, new, need)
        world.running[rank, state.running] = number
        state.running += 1
        budget -= new


@compiled
def schedule(world: World, pool: int, rank: int, now: float) -> Value:
    """Plan a step; the seconds that it takes this rank."""
    budget, preempted = schedule_running(world, pool, rank)
    if not preempted:
        admit(world, pool, rank, budget, now)
    price, sequences, context, tokens, pairs = world.pool[pool], 0, 0, 0, 0.0
    for place in range(world.rank[rank].running):
        one = world.request[world.running[rank, place]]
        new, earlier = whole(one.scheduled), whole(one.computed)
        if new > 0 and one.generated > 0 and one.prompt + one.generated - earlier == 1:
            sequences += 1
            context += earlier + 1
        else:
            tokens += new
            pairs += new * earlier + new * (new + 1) / 2
    return (
        price.step
        + price.sequence * sequences
        + price.context_token * context
        + price.prompt_token * tokens
        + price.prompt_pair * pairs
    )


@compiled
def needed_blocks(world: World, pool: int, rank: int, steps: int) -> Value:
    """More blocks for so many steps in which every running sequence decodes."""
    limits, need = world.pool[pool], 0
    for place in range(world.rank[rank].running):
        one = world.request[world.running[rank, place]]
        need += blocks_for(one.computed + steps, limits.block_size) - one.units * limits.unit_blocks - one.private
    return need


@compiled
def steps_alike(world: World, pool: int, rank: int) -> tuple[Value, Value]:
    """For how many steps this rank only decodes, with the sequences of now, and their context. 0 steps: a step must be
    planned. The last of the steps may finish sequences. While a request waits for KV blocks, no cached unit may be
    evicted either: it may be one that the request would find."""
    limits, state = world.pool[pool], world.rank[rank]
    if state.running > limits.max_num_batched_tokens:
        return 0, 0
    steps, context = whole(2**30), 0
    for place in range(state.running - 1, -1, -1):  # those that still read are the last ones
        one = world.request[world.running[rank, place]]
        total = one.prompt + one.generated
        if one.generated == 0 or total - one.computed != 1:
            return 0, 0
        steps = min(steps, one.output - one.generated)
        context += total
    usable = available(world, pool, rank)
    budget = limits.max_num_batched_tokens - state.running
    if state.waiting and state.running < limits.max_num_seqs and budget > 0:
        if admission(world, pool, rank, state.first_waiting, budget)[3] >= 0:
            return 0, 0
        usable = whole(state.free)
    most = state.running * (steps // limits.block_size + 1)
    if most > usable and needed_blocks(world, pool, rank, steps) > usable:
        low, high = 0, steps
        while high - low > 1:
            middle = (low + high) // 2
            if needed_blocks(world, pool, rank, middle) > usable:
                high = middle
            else:
                low = middle
        steps = low
    return steps, context
