"""KV blocks of the compiled simulation, by the rules of kv_blocks.py: cached units of all ranks are in one hash table,
and those of a rank that nobody holds form a list, the longest unused first."""

from __future__ import annotations

import numpy as np

from pennyweight.simulate.compiled import compiled
from pennyweight.simulate.records import Value, World, whole


@compiled
def mixed(value: np.uint64) -> np.uint64:
    """`random_numbers.mixed`."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def bucket_of(owner: int, number: int, size: int) -> Value:
    """A place in a table whose size is a power of two."""
    key = (np.uint64(owner) << np.uint64(32)) ^ np.uint64(number)
    return whole(mixed(key) & np.uint64(size - 1))


@compiled
def unit_of(world: World, rank: int, number: int) -> Value:
    entry = world.unit_buckets[bucket_of(rank, number, world.unit_buckets.size)]
    while entry >= 0 and not (world.unit[entry].hash == number and world.unit[entry].rank == rank):
        entry = world.unit[entry].chain
    return entry


@compiled
def add_unit(world: World, rank: int, number: int) -> None:
    run = world.run[0]
    entry = run.free_unit
    unit = world.unit[entry]
    run.free_unit = unit.chain
    bucket = bucket_of(rank, number, world.unit_buckets.size)
    unit.hash, unit.rank, unit.holders, unit.chain = number, rank, 1, world.unit_buckets[bucket]
    world.unit_buckets[bucket] = entry


@compiled
def remove_unit(world: World, entry: int) -> None:
    unit = world.unit[entry]
    bucket = bucket_of(unit.rank, unit.hash, world.unit_buckets.size)
    if world.unit_buckets[bucket] == entry:
        world.unit_buckets[bucket] = unit.chain
    else:
        other = world.unit_buckets[bucket]
        while world.unit[other].chain != entry:
            other = world.unit[other].chain
        world.unit[other].chain = unit.chain
    unit.chain = world.run[0].free_unit
    world.run[0].free_unit = entry


@compiled
def leave_unused(world: World, entry: int) -> None:
    """Out of its rank's list of unused units."""
    unit = world.unit[entry]
    rank = world.rank[unit.rank]
    if unit.before >= 0:
        world.unit[unit.before].after = unit.after
    else:
        rank.oldest_unused = unit.after
    if unit.after >= 0:
        world.unit[unit.after].before = unit.before
    else:
        rank.newest_unused = unit.before
    rank.unused -= 1


@compiled
def join_unused(world: World, entry: int) -> None:
    unit = world.unit[entry]
    rank = world.rank[unit.rank]
    unit.before, unit.after = rank.newest_unused, -1
    if rank.newest_unused >= 0:
        world.unit[rank.newest_unused].after = entry
    else:
        rank.oldest_unused = entry
    rank.newest_unused = entry
    rank.unused += 1


@compiled
def hold(world: World, entry: int) -> None:
    if world.unit[entry].holders == 0:
        leave_unused(world, entry)
    world.unit[entry].holders += 1


@compiled
def evict_oldest(world: World, rank: int) -> None:
    entry = world.rank[rank].oldest_unused
    leave_unused(world, entry)
    remove_unit(world, entry)


@compiled
def allocate(world: World, rank: int, blocks: int, unit_blocks: int) -> None:
    while world.rank[rank].free < blocks:
        evict_oldest(world, rank)
        world.rank[rank].free += unit_blocks
    world.rank[rank].free -= blocks


@compiled
def share(world: World, rank: int, number: int, unit_blocks: int) -> None:
    entry = unit_of(world, rank, number)
    if entry >= 0:
        hold(world, entry)
        world.rank[rank].free += unit_blocks
    else:
        add_unit(world, rank, number)


@compiled
def give_back(world: World, rank: int, number: int) -> None:
    """A request's blocks: its units the last first, so that it is evicted first."""
    one = world.request[number]
    world.rank[rank].free += one.private
    for place in range(one.units - 1, -1, -1):
        entry = unit_of(world, rank, world.hashes[one.block_start + place])
        world.unit[entry].holders -= 1
        if world.unit[entry].holders == 0:
            join_unused(world, entry)
    one.private = 0
    one.units = 0
    one.computed = 0
    one.scheduled = 0


@compiled
def clear(world: World, rank: int, num_kv_blocks: int) -> None:
    """Once nobody holds a unit."""
    while world.rank[rank].unused:
        evict_oldest(world, rank)
    world.rank[rank].free = num_kv_blocks
