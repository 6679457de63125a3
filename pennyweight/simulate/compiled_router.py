"""The router, compiled: plain_router.py's choices without a look at every replica. Trees over the replicas find the
least load, the largest load and the n-th that takes requests; lists by hash find the replicas that know a block."""

from __future__ import annotations

import numpy as np

from pennyweight.balancing import AFFINITY
from pennyweight.simulate.compiled import compiled
from pennyweight.simulate.compiled_blocks import bucket_of, mixed
from pennyweight.simulate.records import (
    GATEWAY,
    IS_READY,
    LARGEST,
    POWER_OF_TWO,
    PREFIX_AFFINITY,
    ROUND_ROBIN,
    SESSION_AFFINITY,
    Value,
    World,
    whole,
)


@compiled
def takes_requests(world: World, slot: int) -> Value:
    replica, bound = world.replica[slot], world.run[0].bound
    return replica.state == IS_READY and (bound == 0 or replica.requests < bound)


@compiled
def refresh(world: World, slot: int) -> None:
    """The trees after a replica's load or state has changed."""
    pool = world.replica[slot].pool
    node = world.pool[pool].leaf + slot - world.pool[pool].first
    load = world.replica[slot].outstanding
    if takes_requests(world, slot):
        world.least[pool, node], world.largest[pool, node], world.counts[pool, node] = load, load, 1
    else:
        world.least[pool, node], world.largest[pool, node], world.counts[pool, node] = LARGEST, -1, 0
    node //= 2
    while node:
        left, right = 2 * node, 2 * node + 1
        world.least[pool, node] = min(world.least[pool, left], world.least[pool, right])
        world.largest[pool, node] = max(world.largest[pool, left], world.largest[pool, right])
        world.counts[pool, node] = world.counts[pool, left] + world.counts[pool, right]
        node //= 2


@compiled
def least_busy(world: World, pool: int) -> Value:
    node = 1
    while node < world.pool[pool].leaf:
        node *= 2
        if world.least[pool, node + 1] < world.least[pool, node]:
            node += 1
    return world.pool[pool].first + node - world.pool[pool].leaf


@compiled
def nth(world: World, pool: int, place: int) -> Value:
    """The replica at a place among those that take requests."""
    node = 1
    while node < world.pool[pool].leaf:
        node *= 2
        if world.counts[pool, node] <= place:
            place -= world.counts[pool, node]
            node += 1
    return world.pool[pool].first + node - world.pool[pool].leaf


@compiled
def count_up_to(world: World, pool: int, slot: int) -> Value:
    """How many take requests, up to and with this one."""
    if slot < world.pool[pool].first:
        return 0
    node = world.pool[pool].leaf + slot - world.pool[pool].first
    found = world.counts[pool, node]
    while node > 1:
        if node % 2:
            found += world.counts[pool, node - 1]
        node //= 2
    return found


@compiled
def drawn(seed: int, place: int, draw: int) -> Value:
    """`random_numbers.drawn`."""
    inner = mixed(np.uint64(2) * np.uint64(place) + np.uint64(draw))
    return whole(mixed(np.uint64(seed) + inner) >> np.uint64(1))


@compiled
def of_two(world: World, pool: int, number: int) -> Value:
    count, seed = world.counts[pool, 1], world.run[0].seed
    one = drawn(seed, number, 0) % count
    if count == 1:
        return nth(world, pool, one)
    other = drawn(seed, number, 1) % (count - 1)
    if other >= one:
        other += 1
    first, second = nth(world, pool, one), nth(world, pool, other)
    return second if world.replica[second].outstanding < world.replica[first].outstanding else first


@compiled
def owner_of(world: World, pool: int, place: int) -> Value:
    """The first replica on the ring, from a session's place on, that takes requests."""
    start, size = world.pool[pool].ring_start, world.pool[pool].ring_length
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if world.ring_places[start + middle] < place:
            low = middle + 1
        else:
            high = middle
    while True:
        slot = world.pool[pool].first + world.ring_owners[start + low % size]
        if takes_requests(world, slot):
            return slot
        low += 1


@compiled
def memory_place(world: World, slot: int, number: int) -> Value:
    """Where in the table the memory of a block at a replica is, or would be."""
    place = bucket_of(slot, number, world.memory_table.size)
    while True:
        entry = world.memory_table[place]
        if entry < 0 or (world.memory[entry].hash == number and world.memory[entry].slot == slot):
            return place
        place = (place + 1) & (world.memory_table.size - 1)


@compiled
def remembers(world: World, entry: int) -> Value:
    """Is this memory of now, neither of the replica's former life nor too long ago?"""
    memory = world.memory[entry]
    replica = world.replica[memory.slot]
    return memory.lifetime == replica.lifetime and replica.sent - memory.sent_at <= world.run[0].remembered


@compiled
def remember(world: World, slot: int, number: int) -> None:
    """The first blocks of a request were sent to a replica."""
    one, run, replica = world.request[number], world.run[0], world.replica[slot]
    blocks = min(one.blocks, run.beginning)
    replica.sent += blocks
    for block in range(blocks):
        name = world.hashes[one.block_start + block]
        place = memory_place(world, slot, name)
        entry = world.memory_table[place]
        if entry < 0:
            if run.used_memory == world.memory.size:
                run.full = 1
                return
            entry = run.used_memory
            run.used_memory += 1
            world.memory_table[place] = entry
            memory = world.memory[entry]
            memory.hash, memory.slot, memory.next = name, slot, world.memory_heads[name]
            world.memory_heads[name] = entry
        world.memory[entry].lifetime = replica.lifetime
        world.memory[entry].sent_at = replica.sent


@compiled
def knows(world: World, slot: int, number: int) -> Value:
    one, found = world.request[number], 0
    while found < min(one.blocks, world.run[0].beginning):
        entry = world.memory_table[memory_place(world, slot, world.hashes[one.block_start + found])]
        if entry < 0 or not remembers(world, entry):
            break
        found += 1
    return found


@compiled
def most_knowing(world: World, number: int, least_known: int, bound: float) -> Value:
    """Of the replicas with at most `bound` outstanding tokens that know `least_known` of a prompt's first blocks or
    more, the least busy one of those that know most; -1: none. A replica that knows a block knows all before it."""
    one = world.request[number]
    for block in range(min(one.blocks, world.run[0].beginning) - 1, least_known - 2, -1):
        best = -1
        entry = world.memory_heads[world.hashes[one.block_start + block]]
        while entry >= 0:
            slot = world.memory[entry].slot
            load = world.replica[slot].outstanding
            if load <= bound and takes_requests(world, slot) and remembers(world, entry):
                other = world.replica[best].outstanding if best >= 0 else LARGEST
                if load < other or (load == other and slot < best):
                    best = slot
            entry = world.memory[entry].next
        if best >= 0:
            return best
    return -1


@compiled
def chosen(world: World, pool: int, number: int) -> Value:
    """The replica for a request; at least one takes requests."""
    kind = world.pool[pool].router
    if kind == ROUND_ROBIN:
        place = count_up_to(world, pool, world.pool[pool].last)
        world.pool[pool].last = nth(world, pool, place % world.counts[pool, 1])
        return world.pool[pool].last
    if kind == POWER_OF_TWO:
        return of_two(world, pool, number)
    if kind == SESSION_AFFINITY:
        return owner_of(world, pool, world.request[number].session_place)
    least = least_busy(world, pool)
    found = -1
    if kind == GATEWAY:
        bound = world.least[pool, 1] + AFFINITY * world.largest[pool, 1]
        found = most_knowing(world, number, knows(world, least, number) + 1, bound)
    if kind == PREFIX_AFFINITY:
        blocks = min(world.request[number].blocks, world.run[0].beginning)
        found = most_knowing(world, number, max(1, (blocks + 1) // 2), np.inf)
    return found if found >= 0 else least
