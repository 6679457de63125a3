"""How many replicas of which placements: an integer programme over machine types and buckets of requests (HiGHS, by
SciPy), with slots to spare for chance (square-root staffing: Halfin & Whitt 1981, doi.org/10.1287/opre.29.3.567)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from pennyweight.cluster import MachineType
from pennyweight.errors import Infeasible
from pennyweight.plan.options import Bucket, Option
from pennyweight.plan.placement import Placement

MOST_OPTIONS, MOST_SECONDS, GAP = 60, 30.0, 0.005


@dataclass(frozen=True)
class Share:
    """So many replicas of an option; `parts` are the shares of each bucket that they answer."""

    option: Option
    replicas: int
    parts: tuple[float, ...]


@dataclass(frozen=True)
class Allocation:
    """`gap`: the optimum is no cheaper than by this share."""

    shares: tuple[Share, ...]
    gap: float

    @property
    def hourly_usd(self) -> float:
        return hourly_usd((share.option.placement, share.replicas) for share in self.shares)


def hourly_usd(replicas: Iterable[tuple[Placement, int]]) -> float:
    """Dollars of an hour of the whole machines that so many replicas of each placement take; 0 for those that have no
    price."""
    devices = Counter[MachineType]()
    for placement, count in replicas:
        devices[placement.machine] += count * placement.devices
    prices = ((machine.usd_per_hour, count / machine.devices) for machine, count in devices.items())
    return sum(price.value * math.ceil(count) for price, count in prices if price is not None)


def slots_of(rate: float, seconds: float, attainment: float) -> float:
    """Requests at a time for which there must be room, so that hardly one waits."""
    offered = rate * seconds
    return offered + NormalDist().inv_cdf(attainment) * math.sqrt(offered)


def allocate(options: Sequence[Option], buckets: Sequence[Bucket], attainment: float) -> Allocation:
    """The cheapest. Options without a price or a capacity are left out. Raises `Infeasible` where none is left."""
    usable = [one for one in options if one.capacities and one.placement.hourly_usd is not None]
    if not usable:
        raise Infeasible("No placement with a price holds the limits.")
    usable = sorted(usable, key=lambda one: _alone(one, buckets, attainment))[:MOST_OPTIONS]
    names = list(dict.fromkeys(one.placement.machine.name for one in usable))
    return _solved(usable, buckets, attainment, names)


def replicas_alone(option: Option, buckets: Sequence[Bucket], attainment: float) -> float:
    """Replicas of this option that answer all buckets; a fraction."""
    return sum(_needs(option, number, bucket, attainment) for number, bucket in enumerate(buckets))


def _alone(option: Option, buckets: Sequence[Bucket], attainment: float) -> float:
    assert option.placement.hourly_usd is not None
    return replicas_alone(option, buckets, attainment) * option.placement.hourly_usd


def _needs(option: Option, number: int, bucket: Bucket, attainment: float) -> float:
    capacity = option.capacities[number]
    return slots_of(bucket.rate, capacity.request_seconds, attainment) / capacity.load.concurrency


def _solved(options: Sequence[Option], buckets: Sequence[Bucket], attainment: float, names: list[str]) -> Allocation:
    """Variables: replicas of each option, machines of each type, and each option's share of each bucket."""
    from scipy import optimize, sparse

    count, types, kinds = len(options), len(names), len(buckets)
    size = count + types + count * kinds
    rows, low, high = list[Any](), list[float](), list[float]()

    def row(entries: dict[int, float], least: float, most: float) -> None:
        line = np.zeros(size)
        for place, value in entries.items():
            line[place] = value
        rows.append(line)
        low.append(least)
        high.append(most)

    for bucket in range(kinds):
        row({count + types + option * kinds + bucket: 1.0 for option in range(count)}, 1.0, 1.0)
    for place, option in enumerate(options):
        work = {
            count + types + place * kinds + number: _needs(option, number, bucket, attainment)
            for number, bucket in enumerate(buckets)
        }
        row({**work, place: -1.0}, -np.inf, 0.0)
    for place, name in enumerate(names):
        held = {n: one.placement.devices for n, one in enumerate(options) if one.placement.machine.name == name}
        devices = next(one.placement.machine.devices for one in options if one.placement.machine.name == name)
        row({**held, count + place: -float(devices)}, -np.inf, 0.0)
    cost = np.zeros(size)
    for place, name in enumerate(names):
        price = next(one.placement.machine.usd_per_hour for one in options if one.placement.machine.name == name)
        assert price is not None
        cost[count + place] = price.value
    integral = np.concatenate([np.ones(count + types), np.zeros(count * kinds)])
    found = optimize.milp(
        cost,
        constraints=optimize.LinearConstraint(sparse.csr_matrix(np.array(rows)), low, high),
        integrality=integral,
        bounds=optimize.Bounds(0, np.inf),
        options={"time_limit": MOST_SECONDS, "mip_rel_gap": GAP},
    )
    if found.x is None:
        raise Infeasible(f"The integer programme found no allocation ({found.message}): try fewer machine types.")
    replicas = np.rint(found.x[:count]).astype(int)
    parts = found.x[count + types :].reshape(count, kinds)
    shares = tuple(
        Share(option, int(number), tuple(float(part) for part in each))
        for option, number, each in zip(options, replicas, parts, strict=True)
        if number
    )
    return Allocation(shares, float(found.mip_gap or 0.0))
