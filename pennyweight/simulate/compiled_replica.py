"""Steps of a replica, compiled. While its ranks only decode and nothing can change, the durations of its steps are an
arithmetic series: it jumps to the end of many of them at once. An arrival that could change the batch, or a failure,
cuts the jump at the boundary of a step."""

from __future__ import annotations

import numpy as np

from pennyweight.simulate.compiled import compiled
from pennyweight.simulate.compiled_blocks import allocate, give_back
from pennyweight.simulate.compiled_rank import blocks_for, schedule, steps_alike
from pennyweight.simulate.records import Value, World, whole


@compiled
def boundary(world: World, slot: int, steps: int) -> Value:
    """When the first `steps` steps of a jump have ended."""
    replica = world.replica[slot]
    return replica.step_began + steps * replica.first_seconds + replica.growth * (steps * (steps - 1.0) / 2)


@compiled
def begin_steps(world: World, slot: int, now: float) -> None:
    """Jump, or plan one step; the replica's `steps` end at their boundary."""
    replica = world.replica[slot]
    replica.step_began = now
    replica.jumping = 0
    if jump(world, slot):
        replica.jumping = 1
        return
    pool = replica.pool
    seconds = 0.0
    for rank in range(replica.first_rank, replica.first_rank + world.pool[pool].ranks):
        seconds = max(seconds, schedule(world, pool, rank, now))
    replica.steps = 1
    replica.first_seconds = seconds
    replica.growth = 0.0


@compiled
def jump(world: World, slot: int) -> Value:
    """The slowest rank sets the pace until one whose steps grow faster overtakes it."""
    replica = world.replica[slot]
    pool, price = replica.pool, world.pool[replica.pool]
    if price.only_first:
        return False
    ranks = range(replica.first_rank, replica.first_rank + price.ranks)
    steps, slowest, growth = whole(2**30), -1.0, 0.0
    for rank in ranks:
        if world.rank[rank].running == 0 and world.rank[rank].waiting:
            return False
        alike, context = whole(2**30), 0
        if world.rank[rank].running:
            alike, context = steps_alike(world, pool, rank)
        if alike == 0:
            return False
        steps = min(steps, alike)
        sequences = world.rank[rank].running
        seconds = price.step + price.sequence * sequences + price.context_token * context
        more = price.context_token * sequences
        if seconds > slowest or (seconds == slowest and more > growth):
            slowest, growth = seconds, more
    for rank in ranks:
        sequences = world.rank[rank].running
        more = price.context_token * sequences
        if more > growth:
            context = 0
            for place in range(sequences):
                one = world.request[world.running[rank, place]]
                context += one.prompt + one.generated
            seconds = price.step + price.sequence * sequences + price.context_token * context
            steps = min(steps, whole((slowest - seconds) / (more - growth)) + 1)
    replica.steps, replica.first_seconds, replica.growth = steps, slowest, growth
    return True


@compiled
def steps_until(world: World, slot: int, time: float) -> Value:
    """The fewest steps of a jump, at least one, whose boundary is not before `time`."""
    low, high = 0, world.replica[slot].steps
    while high - low > 1:
        middle = (low + high) // 2
        if boundary(world, slot, middle) >= time:
            high = middle
        else:
            low = middle
    return high


@compiled
def decode(world: World, slot: int, number: int) -> Value:
    """The tokens of a jump's steps for one sequence; how many more blocks they take."""
    replica, one = world.replica[slot], world.request[number]
    limits = world.pool[replica.pool]
    one.computed += replica.steps
    one.generated += replica.steps
    private = blocks_for(one.computed, limits.block_size) - one.units * limits.unit_blocks
    need = private - one.private
    one.private = private
    return need


@compiled
def finish_steps(world: World, slot: int, rank: int, now: float, leaving: np.ndarray) -> Value:
    """What the steps brought to one rank. The requests that leave are put into `leaving`; their count comes back."""
    replica, state = world.replica[slot], world.rank[rank]
    only_first, kept, left, need = world.pool[replica.pool].only_first, 0, 0, 0
    for place in range(state.running):
        number = world.running[rank, place]
        one = world.request[number]
        ended = False
        if replica.jumping:
            need += decode(world, slot, number)
            ended = one.generated == one.output
        else:
            one.computed += one.scheduled
            if one.scheduled > 0 and one.computed == one.prompt + one.generated:
                one.generated += 1
                if np.isnan(one.first_token):
                    one.first_token = now
                ended = one.generated == one.output or only_first == 1
        if ended:
            one.last_token = now
            leaving[left] = number
            left += 1
        else:
            world.running[rank, kept] = number
            kept += 1
    state.running = kept
    allocate(world, rank, need, world.pool[replica.pool].unit_blocks)
    for place in range(left):
        give_back(world, rank, leaving[place])
    return left
