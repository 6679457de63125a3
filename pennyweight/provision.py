"""From a workload to a plan that was simulated: requests into buckets of like lengths, the planner's choice, and each
plan run through the simulator at the pessimistic end of what is predicted, with as few replicas as hold the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import Infeasible, UsageError
from pennyweight.plan.allocation import Allocation, Share, hourly_usd
from pennyweight.plan.options import Bucket, Option
from pennyweight.plan.planning import Plan, Question, explained, is_below, make_plan
from pennyweight.plan.prediction import Case, Predictor
from pennyweight.plan.steps import replica_limits, step_price
from pennyweight.simulate import Pool, RequestTable, SimulatedCluster, simulate
from pennyweight.simulate.arrivals import at_rate
from pennyweight.step_price import ReplicaLimits, StepPrice

WIDE = 2.0  # the 90th percentile of a length over its median, from which lengths are halved into buckets
MOST_SIMULATED, MOST_ADDED = 20_000, 2.0  # requests; times the planned replicas
MOST_REPLICAS = 10_000
SEED = 0


@dataclass(frozen=True)
class Simulated:
    """Replicas of an option, the price of whole machines for them alone, and what they did: the share of requests
    within the limits, and milliseconds."""

    option: Option
    replicas: int
    hourly_usd: float
    attainment: float
    ttft_p99_ms: float
    tpot_p99_ms: float
    price: StepPrice
    limits: ReplicaLimits


@dataclass(frozen=True)
class Provision:
    """`chosen` has one entry for each share of the plan, with the replicas that the simulation asks for; `others` are
    the alternatives, the cheapest first."""

    plan: Plan
    chosen: tuple[Simulated, ...]
    others: tuple[Simulated, ...]

    @property
    def hourly_usd(self) -> float:
        """Of whole machines."""
        return hourly_usd((one.option.placement, one.replicas) for one in self.chosen)

    @property
    def unproven(self) -> bool:
        """Has it a precision below the model's own?"""
        native = self.plan.question.native
        return any(is_below(one.option.placement.precision, native) for one in self.chosen)

    @property
    def attainment(self) -> float:
        return min(one.attainment for one in self.chosen)


def buckets_of(table: RequestTable, rate: float) -> tuple[Bucket, ...]:
    """At most four, halved at the median of each length that is spread wide."""
    group = _groups(table)
    return tuple(
        Bucket(
            float(table.prompt_tokens[group == one].mean()),
            float(table.output_tokens[group == one].mean()),
            rate * float((group == one).mean()),
        )
        for one in range(int(group.max()) + 1)
    )


def _groups(table: RequestTable) -> NDArray[np.intp]:
    """Each request's bucket."""
    found = np.zeros(len(table), np.intp)
    for lengths in (table.prompt_tokens, table.output_tokens):
        middle, long = np.quantile(lengths, [0.5, 0.9])
        if long > WIDE * middle:
            found = 2 * found + (lengths > middle)
    return np.unique(found, return_inverse=True)[1]


def rate_of(table: RequestTable, request_rate: float | None) -> float:
    """Requests a second: what is asked for, or what the trace recorded."""
    if request_rate is not None:
        if not 0 < request_rate < math.inf:
            raise UsageError(f"--request-rate {request_rate} is not possible: give requests a second, above 0.")
        return request_rate
    seconds = float(table.arrival[-1] - table.arrival[0])
    if seconds <= 0:
        raise UsageError(f"{table.name} has no recorded times: say how many requests a second come (--request-rate).")
    return (len(table) - 1) / seconds


def provision(question: Question, predictor: Predictor, table: RequestTable, *, rate: float) -> Provision:
    """`table` are the workload's requests, which come `rate` a second, and whose buckets the question has. The plan is
    held against each single placement, simulated too, and the cheapest that holds wins. Raises `Infeasible`."""
    plan = make_plan(question, predictor)
    _refuse_too_many(plan.allocation.shares)
    rows = np.arange(min(len(table), MOST_SIMULATED))
    groups, requests = _groups(table)[rows], at_rate(table.chosen(rows), rate, SEED)
    mixed = tuple(
        _enough(question, predictor, share, requests.chosen(rows))
        for share, rows in zip(plan.allocation.shares, _dealt(plan.allocation.shares, groups), strict=True)
        if len(rows)
    )
    singles = list[tuple[Simulated, ...]]()
    for one in plan.alternatives:
        share = _share(one.option, math.ceil(one.replicas), question)
        singles.append((_enough(question, predictor, share, requests),))
    tried = [Provision(plan, each, ()) for each in (mixed, *singles)]
    able = [one for one in tried if one.attainment >= question.limits.attainment]
    if not able:
        nearest = max(tried, key=lambda one: one.attainment)
        raise Infeasible(
            f"Simulated, no plan keeps {question.limits.attainment:.2%} of the requests within the limits: nearest is "
            f"{_named(nearest.chosen)} with {nearest.attainment:.2%}. Allow more time, or a smaller share."
        )
    best = min(able, key=lambda one: (one.hourly_usd, one.unproven, -one.attainment))
    if question.most_usd is not None and best.hourly_usd > question.most_usd:
        raise Infeasible(
            f"Simulated, the cheapest plan takes {best.hourly_usd:.2f} dollars an hour to hold the limits, and "
            f"{question.most_usd:.2f} are allowed: {_named(best.chosen)}."
        )
    if best.chosen is not mixed:
        share = _share(best.chosen[0].option, best.chosen[0].replicas, question)
        plan = explained(question, predictor, plan.options, Allocation((share,), gap=0.0))
    others = [each[0] for each in singles if each is not best.chosen]
    if best.chosen is not mixed and len(mixed) == 1:
        others.append(mixed[0])
    return Provision(plan, best.chosen, tuple(sorted(others, key=lambda one: (one.hourly_usd, -one.attainment))))


def _share(option: Option, replicas: int, question: Question) -> Share:
    return Share(option, max(1, replicas), (1.0,) * len(question.buckets))


def _named(chosen: Sequence[Simulated]) -> str:
    return " and ".join(f"{one.replicas} x {one.option.placement.describe()}" for one in chosen)


def _refuse_too_many(shares: Sequence[Share]) -> None:
    count = sum(share.replicas for share in shares)
    if count > MOST_REPLICAS:
        raise UsageError(f"That rate takes {count:,} replicas, more than are planned for: give a smaller rate.")


def _dealt(shares: Sequence[Share], groups: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """The requests of each share: of each bucket as many as its part, drawn evenly."""
    draws = np.random.default_rng(SEED).random(len(groups))
    found, below = [], np.zeros(len(groups))
    for share in shares:
        above = below + np.array(share.parts)[groups]
        found.append(np.flatnonzero((below <= draws) & (draws < above)))
        below = above
    return found


def _enough(question: Question, predictor: Predictor, share: Share, requests: RequestTable) -> Simulated:
    """As few replicas as hold the attainment, between one and `MOST_ADDED` times the planned ones."""

    def at(replicas: int) -> Simulated:
        return _simulated(question, predictor, share, replicas, requests)

    few, many = 0, share.replicas  # `few` do not hold
    found = at(many)
    while found.attainment < question.limits.attainment:
        if many >= MOST_ADDED * share.replicas:
            return found
        few, many = many, many + max(1, many // 4)
        found = at(many)
    while many - few > max(1, many // 50):
        middle = (few + many) // 2
        tried = at(middle)
        if tried.attainment >= question.limits.attainment:
            found, many = tried, middle
        else:
            few = middle
    return found


def _simulated(
    question: Question, predictor: Predictor, share: Share, replicas: int, requests: RequestTable
) -> Simulated:
    option, limits = share.option, question.limits
    work = [part * bucket.rate for part, bucket in zip(share.parts, question.buckets, strict=True)]
    capacity = option.capacities[int(np.argmax(work))]
    sizes = [one.load.concurrency for one in option.capacities]
    case = Case(question.shape, option.placement, replace(capacity.load, concurrency=_mean(sizes, work)))
    price = step_price(case, predictor, token_seconds=capacity.prediction.token.high)
    held = replica_limits(case)
    run = simulate(SimulatedCluster(Pool(replicas, price, held)), requests, seed=SEED)
    good = run.meets({"ttft": limits.ttft_ms, "tpot": limits.tpot_ms})
    served = ~run.rejected
    return Simulated(
        option,
        replicas,
        hourly_usd([(option.placement, replicas)]),
        float(np.mean(good)),
        1000 * float(np.quantile(run.ttft[served], 0.99)),
        1000 * float(np.quantile(np.nan_to_num(run.tpot[served]), 0.99)),
        price,
        held,
    )


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return float(np.average(values, weights=weights))
