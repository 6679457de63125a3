"""The events of a simulation in their order, compiled: plain.py on arrays."""

from __future__ import annotations

import numpy as np

from pennyweight.simulate.compiled import Compiled, as_world, compiled, kept
from pennyweight.simulate.compiled_events import advance, arrive, begin, end, kill, ready
from pennyweight.simulate.compiled_queue import pop_pending
from pennyweight.simulate.compiled_router import refresh
from pennyweight.simulate.compiled_scaling import scale
from pennyweight.simulate.records import ARRIVAL, KILL, NEVER, READY, STEP_END, STEP_START, TICK, Value, World, whole


@compiled
def is_before(time: float, phase: int, other_time: float, other_phase: int) -> Value:
    return time < other_time or (time == other_time and phase < other_phase)


@compiled
def next_arrival(world: World) -> tuple[Value, Value, Value]:
    """Time and number of the next request to arrive, and whether it is among those not known at the start."""
    run = world.run[0]
    number, time = run.next_arrival, NEVER
    if number < run.known:
        time = world.request[number].arrival
    if run.pending:
        other, other_time = world.pending_request[0], world.pending_time[0]
        if other_time < time or (other_time == time and other < number):
            return other_time, whole(other), True
    return time, whole(number), False


@compiled
def next_event(world: World) -> tuple[Value, Value, Value]:
    """Time, phase and number of what comes next; an arrival is taken out of its list."""
    run = world.run[0]
    number = whole(world.heap[0])
    time, phase = world.replica[number].key_time, whole(world.replica[number].key_phase)
    arrival, arriving, was_pending = next_arrival(world)
    if is_before(arrival, ARRIVAL, time, phase):
        time, phase, number = arrival, ARRIVAL, arriving
    if is_before(run.next_tick, TICK, time, phase):
        time, phase = run.next_tick, TICK
    if run.next_kill < world.kill_time.size and is_before(world.kill_time[run.next_kill], KILL, time, phase):
        time, phase, number = world.kill_time[run.next_kill], KILL, world.kill_slot[run.next_kill]
        run.next_kill += 1
    if phase == ARRIVAL:
        if was_pending:
            pop_pending(world)
        else:
            run.next_arrival += 1
    return time, phase, number


@compiled
def run_events(world: World) -> None:
    run = world.run[0]
    for slot in range(world.replica.size):
        refresh(world, slot)
    leaving = np.empty(world.running.shape[1], dtype=np.int32)
    while run.done < world.request.size and not run.full:
        run.now, phase, number = next_event(world)
        if run.now == NEVER:
            break
        if phase == ARRIVAL:
            arrive(world, number)
        elif phase == STEP_START:
            begin(world, number)
        elif phase == STEP_END:
            end(world, number, leaving)
        elif phase == READY:
            ready(world, number)
        elif phase == KILL:
            kill(world, number)
        else:
            scale(world)
    advance(world)


def entry(sources: str) -> Compiled:
    """The simulation of a world, whose table it gets. `sources` is the digest of what is compiled: as a constant of the
    function it becomes part of the key that numba keeps it by."""

    @kept
    def run_world(table: np.ndarray) -> Value:
        run_events(as_world(table))
        return len(sources) > 0

    return run_world
