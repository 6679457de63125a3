"""Admission: who goes first, who shares, who is told to come back, and that no slot is ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.serve.gateway import admission as gateway_admission
from pennyweight.serve.gateway.admission import Admission, Ticket
from pennyweight.serve.gateway.refusals import Shed, Unavailable
from pennyweight.serve.gateway.tenant import BATCH


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 10))


def admission(capacity: int = 1, most_waiting: int = 100, slo: float = 0.0) -> Admission:
    return Admission(lambda: capacity, most_waiting, slo)


def leave(made: Admission) -> None:
    """The one that has run for longest ends, as it was declared."""
    made.leave(made.inside[0], made.inside[0].cost)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def order_of(made: Admission, tickets: list[Ticket]) -> list[str]:
    """Who is let in after whom, one at a time."""
    order: list[str] = []

    async def ask(ticket: Ticket) -> None:
        await made.enter(ticket)
        order.append(ticket.tenant)

    tasks = []
    for ticket in tickets:
        tasks.append(asyncio.create_task(ask(ticket)))
        await settle()
    for _ in tickets:
        leave(made)
        await settle()
    await asyncio.gather(*tasks)
    return order


def test_a_tenant_with_few_requests_does_not_wait_for_one_with_many() -> None:
    async def work() -> None:
        made = admission()
        await made.enter(Ticket(0, "first", 1))
        many = [Ticket(0, "many", 100) for _ in range(10)]
        order = await order_of(made, [*many, Ticket(0, "few", 100), Ticket(0, "few", 100)])
        assert [n for n, tenant in enumerate(order) if tenant == "few"][-1] <= 4

    run(work)


def test_shares_are_of_tokens_and_not_of_requests() -> None:
    async def work() -> None:
        made = admission()
        await made.enter(Ticket(0, "first", 1))
        order = await order_of(
            made, [*(Ticket(0, "long", 400) for _ in range(4)), *(Ticket(0, "short", 100) for _ in range(8))]
        )
        assert order[:6].count("short") >= 4

    run(work)


def test_a_better_priority_goes_first() -> None:
    async def work() -> None:
        made = admission()
        await made.enter(Ticket(0, "first", 1))
        order = await order_of(made, [Ticket(BATCH, "batch", 1), Ticket(5, "later", 1), Ticket(0, "soon", 1)])
        assert order == ["soon", "later", "batch"]

    run(work)


def test_a_full_queue_sheds_and_says_when_to_come_back() -> None:
    async def work() -> None:
        made = admission(most_waiting=1)
        await made.enter(Ticket(0, "a", 1))
        waiting = asyncio.create_task(made.enter(Ticket(0, "b", 1)))
        await settle()
        with pytest.raises(Shed, match="waiting already") as refused:
            await made.enter(Ticket(0, "c", 1))
        assert refused.value.retry_after >= 1
        leave(made)
        await waiting

    run(work)


def test_who_cannot_be_served_in_time_is_told_at_once_or_when_the_time_is_up() -> None:
    async def work() -> None:
        made = admission(slo=0.05)
        await made.enter(Ticket(0, "a", 1))
        with pytest.raises(Shed, match="No engine was free"):
            await made.enter(Ticket(0, "b", 1))
        assert made.waiting == 0
        waiting = asyncio.create_task(made.enter(Ticket(BATCH, "night", 1)))  # nobody waits for it
        for _ in range(4):  # answers that take longer than the promise
            await asyncio.sleep(0.06)
            leave(made)
            await made.enter(Ticket(0, "a", 1)) if made.running == 0 else None
        await waiting
        with pytest.raises(Shed, match="would take about"):
            await made.enter(Ticket(0, "c", 1))

    run(work)


def test_engines_that_come_back_let_the_waiting_in() -> None:
    async def work() -> None:
        slots = 0
        made = Admission(lambda: slots, 10, 0.0)
        waiting = asyncio.create_task(made.enter(Ticket(0, "a", 1)))
        await settle()
        assert not waiting.done()
        slots = 1
        made.dispatch()
        await waiting

    run(work)


def test_who_does_not_wait_for_an_engine_is_refused_when_none_runs() -> None:
    async def work() -> None:
        slots = 1
        made = Admission(lambda: slots, 10, 0.0)
        await made.enter(Ticket(0, "a", 1))
        hurried = asyncio.create_task(made.enter(Ticket(0, "b", 1, waits=False)))
        patient = asyncio.create_task(made.enter(Ticket(0, "c", 1)))
        await settle()
        assert not hurried.done() and made.waiting == 2
        slots = 0
        made.dispatch()
        with pytest.raises(Unavailable, match="No engine is running"):
            await hurried
        slots = 1
        leave(made)
        await patient

    run(work)


def test_a_pause_of_the_clients_is_no_pace_of_the_engines() -> None:
    async def work() -> None:
        made = admission(slo=0.2)
        await made.enter(Ticket(0, "a", 1))
        leave(made)
        await asyncio.sleep(0.3)  # nobody asks
        for _ in range(3):
            await made.enter(Ticket(0, "a", 1))
            waiting = asyncio.create_task(made.enter(Ticket(0, "b", 1)))
            await settle()
            leave(made)
            await waiting  # it is not told that it would take 0.3 s
            leave(made)

    run(work)


def test_batch_work_that_may_not_go_on_keeps_nobody_back() -> None:
    async def work() -> None:
        made = admission(capacity=4)
        for _ in range(3):
            await made.enter(Ticket(BATCH, "night", 1))
        await made.enter(Ticket(0, "a", 1))
        waiting = asyncio.create_task(made.enter(Ticket(BATCH, "night", 1)))
        await settle()
        leave(made)  # of the four, three are batch work's already
        await settle()
        assert not waiting.done()
        await asyncio.wait_for(made.enter(Ticket(0, "a", 1)), 0.1)
        waiting.cancel()

    run(work)


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(1, 9), st.booleans()), max_size=20),
)
def test_no_slot_is_lost_and_none_is_given_twice(capacity: int, asked: list[tuple[str, int, int, bool]]) -> None:
    async def work() -> None:
        made = admission(capacity)
        inside = served = 0

        async def one(tenant: str, priority: int, cost: int) -> None:
            nonlocal inside, served
            ticket = Ticket(priority, tenant, cost)
            await made.enter(ticket)
            try:
                inside += 1
                assert inside <= capacity
                await asyncio.sleep(0)
                served += 1
            finally:
                inside -= 1
                made.leave(ticket)

        tasks = [asyncio.create_task(one(*row[:3])) for row in asked]
        await asyncio.sleep(0)
        for task, row in zip(tasks, asked, strict=True):
            if row[3]:
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(e is None or isinstance(e, asyncio.CancelledError) for e in ended)
        assert made.running == made.waiting == 0
        assert served >= sum(not row[3] for row in asked)

    run(work)


def test_a_slow_phase_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        made = admission(slo=0.05)
        slow = Ticket(0, "a", 1)
        await made.enter(slow)
        await asyncio.sleep(0.12)
        made.leave(slow, 1)
        await made.enter(Ticket(0, "a", 1))
        with pytest.raises(Shed, match="would take about"):
            await made.enter(Ticket(0, "b", 1))
        monkeypatch.setattr(gateway_admission, "FORGET_SECONDS", 0.0)
        waiting = asyncio.create_task(made.enter(Ticket(0, "b", 1)))
        await settle()
        leave(made)
        await waiting  # nothing was known of now, so it was let wait

    run(work)


def test_short_requests_are_not_told_the_pace_of_long_ones() -> None:
    async def work() -> None:
        made = admission(slo=1.0)
        long = Ticket(0, "a", 1000)
        await made.enter(long)
        await asyncio.sleep(0.1)
        made.leave(long, 1000)  # 0.1 ms a token
        await made.enter(Ticket(0, "a", 1000))
        short = [asyncio.create_task(made.enter(Ticket(0, "b", 10))) for _ in range(4)]
        await settle()
        for _ in short:
            leave(made)
            await settle()
        await asyncio.gather(*short)

    run(work)


def test_a_request_of_many_sequences_takes_as_many_slots() -> None:
    async def work() -> None:
        made = admission(capacity=4)
        await made.enter(Ticket(0, "a", 1, slots=3))
        await made.enter(Ticket(0, "b", 1))
        wide = asyncio.create_task(made.enter(Ticket(0, "c", 1, slots=16)))
        await settle()
        assert (made.running, wide.done()) == (4, False)
        leave(made)
        await settle()
        assert not wide.done()
        leave(made)
        await wide  # more than there are: it runs alone
        assert made.running == 16

    run(work)


def test_a_share_is_corrected_by_what_was_used() -> None:
    async def work() -> None:
        made = admission()
        first = Ticket(0, "modest", 1000)
        await made.enter(first)
        order = []

        async def ask(ticket: Ticket) -> None:
            await made.enter(ticket)
            order.append(ticket.tenant)

        tasks = []
        for tenant in ("modest", "other", "modest", "other"):
            tasks.append(asyncio.create_task(ask(Ticket(0, tenant, 100))))
            await settle()
        made.leave(first, 10)  # it had declared a hundred times as much
        await settle()
        for _ in range(3):
            leave(made)
            await settle()
        await asyncio.gather(*tasks)
        assert order == ["other", "modest", "other", "modest"]  # else it would wait for both of the other's

    run(work)
