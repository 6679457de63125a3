"""Queues of the compiled simulation: the heap of replicas by their next event, arrivals that became known on the way,
and requests that wait in the router."""

from __future__ import annotations

from pennyweight.simulate.compiled import compiled
from pennyweight.simulate.records import Value, World


@compiled
def is_earlier(world: World, slot: int, other: int) -> Value:
    one, two = world.replica[slot], world.replica[other]
    if one.key_time != two.key_time:
        return one.key_time < two.key_time
    if one.key_phase != two.key_phase:
        return one.key_phase < two.key_phase
    return slot < other


@compiled
def plan(world: World, slot: int, time: float, phase: int) -> None:
    """Give a replica its next event, in place of the one that it had."""
    replica, heap = world.replica[slot], world.heap
    replica.key_time, replica.key_phase = time, phase
    place = replica.place
    while place > 0 and is_earlier(world, slot, heap[(place - 1) // 2]):
        heap[place] = heap[(place - 1) // 2]
        world.replica[heap[place]].place = place
        place = (place - 1) // 2
    while True:
        child = 2 * place + 1
        if child >= heap.size:
            break
        if child + 1 < heap.size and is_earlier(world, heap[child + 1], heap[child]):
            child += 1
        if not is_earlier(world, heap[child], slot):
            break
        heap[place] = heap[child]
        world.replica[heap[place]].place = place
        place = child
    heap[place] = slot
    replica.place = place


@compiled
def push_pending(world: World, time: float, number: int) -> None:
    times, numbers, place = world.pending_time, world.pending_request, world.run[0].pending
    world.run[0].pending += 1
    while place > 0:
        parent = (place - 1) // 2
        if (times[parent], numbers[parent]) <= (time, number):
            break
        times[place], numbers[place] = times[parent], numbers[parent]
        place = parent
    times[place], numbers[place] = time, number


@compiled
def pop_pending(world: World) -> None:
    times, numbers = world.pending_time, world.pending_request
    world.run[0].pending -= 1
    size = world.run[0].pending
    time, number, place = times[size], numbers[size], 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and (times[child + 1], numbers[child + 1]) < (times[child], numbers[child]):
            child += 1
        if (times[child], numbers[child]) >= (time, number):
            break
        times[place], numbers[place] = times[child], numbers[child]
        place = child
    times[place], numbers[place] = time, number


@compiled
def queue_last(world: World, pool: int, number: int) -> None:
    queue, one = world.pool[pool], world.request[number]
    one.next = -1
    if queue.queued:
        world.request[queue.last_queued].next = number
    else:
        queue.first_queued = number
    queue.last_queued = number
    queue.queued += 1
    queue.queued_tokens += one.prompt + one.output


@compiled
def queue_first(world: World, pool: int, number: int) -> None:
    queue, one = world.pool[pool], world.request[number]
    if queue.queued:
        one.next = queue.first_queued
    else:
        one.next = -1
        queue.last_queued = number
    queue.first_queued = number
    queue.queued += 1
    queue.queued_tokens += one.prompt + one.output


@compiled
def take_queued(world: World, pool: int) -> Value:
    queue = world.pool[pool]
    number = queue.first_queued
    one = world.request[number]
    queue.first_queued = one.next
    queue.queued -= 1
    queue.queued_tokens -= one.prompt + one.output
    return number
