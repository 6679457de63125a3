"""The plan: of all placements the cheapest set that holds the limits by the pessimistic ends of what is predicted, why
it looks so, what was not possible and by how much, and which two measurements would say the most."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pennyweight.cluster import MachineType
from pennyweight.errors import Infeasible, UsageError
from pennyweight.plan.allocation import Allocation, Share, allocate, replicas_alone
from pennyweight.plan.options import (
    CONCURRENCIES,
    Bucket,
    Capacity,
    Limits,
    Option,
    options_of,
    physical_limit,
    placements,
)
from pennyweight.plan.placement import PRECISIONS, Placement
from pennyweight.plan.prediction import Case, Known, Predictor
from pennyweight.plan.prices import Load
from pennyweight.shape import ModelShape

SHOWN = 8  # placements beside the chosen ones


@dataclass(frozen=True)
class Question:
    """What is to be planned. `native` is the precision of the model as it is; others are `precisions` that may be
    planned, to be proven before they are served. `most_usd` an hour may be spent."""

    shape: ModelShape
    buckets: tuple[Bucket, ...]
    limits: Limits
    machines: tuple[MachineType, ...]
    engines: tuple[str, ...] = ("vllm",)
    precisions: tuple[str, ...] = ("bf16",)
    native: str = "bf16"
    most_usd: float | None = None
    known: tuple[Known, ...] = ()

    def __post_init__(self) -> None:
        if not self.buckets:
            raise UsageError("The workload has no request: nothing can be planned for it.")
        if not 0.5 <= self.limits.attainment < 1:
            raise UsageError(
                f"An attainment of {self.limits.attainment:.2%} cannot be planned for: give 50% to 99.99%, since some "
                "request is always late."
            )
        unknown = [name for name in self.precisions if name not in PRECISIONS]
        if unknown:
            raise UsageError(f"The precision {unknown[0]} is unknown: use {', '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class Alternative:
    """A placement that alone would serve everything, and its price an hour."""

    placement: Placement
    replicas: float
    hourly_usd: float
    capacities: tuple[Capacity, ...]


@dataclass(frozen=True)
class Plan:
    question: Question
    allocation: Allocation
    reasons: tuple[str, ...]
    alternatives: tuple[Alternative, ...]
    impossible: tuple[str, ...]
    to_measure: tuple[Load, ...]
    notes: tuple[str, ...] = field(default=())


def make_plan(question: Question, predictor: Predictor) -> Plan:
    """Raises `Infeasible` where nothing holds the limits, with the nearest."""
    tried = [
        placement
        for machine in question.machines
        for placement in placements(question.shape, machine, engines=question.engines, precisions=question.precisions)
    ]
    if not tried:
        raise UsageError(_nowhere(question))
    options = options_of(
        question.shape, tried, question.buckets, question.limits, predictor=predictor, known=question.known
    )
    able = [one for one in options if one.capacities]
    if not able:
        raise Infeasible(_nothing_holds(question, options))
    allocation = allocate(able, question.buckets, question.limits.attainment)
    if question.most_usd is not None and allocation.hourly_usd > question.most_usd:
        raise Infeasible(
            f"The cheapest plan costs {allocation.hourly_usd:.2f} dollars an hour, and {question.most_usd:.2f} are "
            f"allowed: {'; '.join(map(describe, allocation.shares))}. Allow more, or less strict limits."
        )
    first = allocation.shares[0]
    return Plan(
        question,
        allocation,
        tuple(
            itertools.chain.from_iterable(_reasons(share, allocation.shares, options) for share in allocation.shares)
        ),
        _alternatives(able, question, allocation),
        _impossible(options),
        measurements(question, first, predictor),
        _notes(question, allocation),
    )


def describe(share: Share) -> str:
    times = f"{share.replicas} x " if share.replicas > 1 else ""
    return f"{times}{share.option.placement.describe()}"


def measurements(question: Question, share: Share, predictor: Predictor) -> tuple[Load, ...]:
    """The two loads whose measurement leaves the least doubt of the planned one."""
    planned = share.option.capacities[0].load
    sizes = [size for size in CONCURRENCIES if size <= planned.concurrency]
    loads = [replace(planned, concurrency=size) for size in sizes]
    target = Case(question.shape, share.option.placement, planned)

    def doubt(pair: tuple[Load, ...]) -> float:
        runs = [Known(Case(question.shape, share.option.placement, load), 1.0, 1.0) for load in pair]
        (found,) = predictor.predict([target], [*question.known, *runs])
        return found.token.high / found.token.low * found.first.high / found.first.low

    pairs: list[tuple[Load, ...]] = [*itertools.combinations(loads, 2)] or [(planned,)]
    return min(pairs, key=doubt)


def _reasons(share: Share, shares: Sequence[Share], options: Sequence[Option]) -> list[str]:
    """Why this placement and no simpler one of the same machine, engine and precision."""
    placement, found = share.option.placement, list[str]()
    beside = [one.option.placement for one in shares if one is not share]
    fills = any(one.machine.name == placement.machine.name and one.devices < placement.devices for one in beside)
    alike = [
        one
        for one in options
        if (one.placement.machine.name, one.placement.engine, one.placement.precision)
        == (placement.machine.name, placement.engine, placement.precision)
    ]
    smaller = [one for one in alike if one.placement.devices < placement.devices]
    if placement.devices > 1:
        nearest = max(smaller, key=lambda one: one.placement.devices, default=None)
        why = "they are left of a machine that is paid whole" if fills else "several replicas of fewer cost more"
        if nearest is not None and nearest.refused:
            why = f"on {nearest.placement.devices} {nearest.refused}"
        found.append(f"{placement.devices} devices a replica: {why}.")
    if placement.tensor > 1:
        found.append(f"tensor {placement.tensor}: each product is shared, which shortens the time of a token.")
    if placement.pipeline > 1:
        found.append(f"pipeline {placement.pipeline}: the link is too slow to share each product over it.")
    if placement.data > 1:
        found.append(
            f"data {placement.data} with experts {placement.expert}: each device keeps the keys and values of its own "
            "requests, and experts are held once."
        )
    if share.replicas > 1:
        found.append(f"{share.replicas} replicas: one copy fits, and copies share nothing, so that they scale evenly.")
    return found


def _alternatives(able: Sequence[Option], question: Question, allocation: Allocation) -> tuple[Alternative, ...]:
    """The cheapest others, one for each machine type, engine and precision."""
    found = dict[tuple[str, str, str], Alternative]()
    chosen = {share.option.placement for share in allocation.shares}
    for one in able:
        hourly = one.placement.hourly_usd
        if hourly is None or one.placement in chosen:
            continue
        replicas = replicas_alone(one, question.buckets, question.limits.attainment)
        key = (one.placement.machine.name, one.placement.engine, one.placement.precision)
        other = Alternative(one.placement, replicas, replicas * hourly, one.capacities)
        if key not in found or other.hourly_usd < found[key].hourly_usd:
            found[key] = other
    return tuple(sorted(found.values(), key=lambda one: one.hourly_usd)[:SHOWN])


def _impossible(options: Sequence[Option]) -> tuple[str, ...]:
    """Of each machine type on which nothing holds the limits, what comes nearest."""
    found = []
    for name in dict.fromkeys(one.placement.machine.name for one in options):
        own = [one for one in options if one.placement.machine.name == name]
        if not any(one.capacities for one in own):
            nearest = min(own, key=lambda one: one.off_by)
            found.append(f"{nearest.placement.describe()}: {nearest.refused} ({nearest.off_by - 1:.0%} too much).")
    return tuple(found)


def _nothing_holds(question: Question, options: Sequence[Option]) -> str:
    fitting = [one for one in options if "fit" not in one.refused]
    if not fitting:
        nearest = min(options, key=lambda one: one.off_by)
        return (
            f"The model fits none of these machine types: nearest is {nearest.placement.describe()}, where "
            f"{nearest.refused}. Add a larger machine type, or a smaller precision."
        )
    nearest = min(fitting, key=lambda one: one.off_by)
    bucket = max(question.buckets, key=lambda one: one.prompt_tokens + one.output_tokens)
    least = 1000 * min(physical_limit(question.shape, one.placement, bucket) for one in fitting)
    limit = ""
    if least > question.limits.tpot_ms:
        limit = f" Below {least:.1f} ms a token no engine can go there: that long it takes to read the weights."
    return (
        f"No placement holds the limits. Nearest is {nearest.placement.describe()}: {nearest.refused}.{limit} Allow "
        "more time, or more machine types or precisions."
    )


def _nowhere(question: Question) -> str:
    engines, precisions = ", ".join(question.engines), ", ".join(question.precisions)
    names = ", ".join(machine.name for machine in question.machines)
    return f"On none of {names} runs {engines} in {precisions}: choose other machine types, engines or precisions."


def _notes(question: Question, allocation: Allocation) -> tuple[str, ...]:
    found = []
    size = PRECISIONS[question.native][0]
    for precision in dict.fromkeys(share.option.placement.precision for share in allocation.shares):
        if PRECISIONS[precision][0] < size:
            found.append(f"{precision} is below the model's own {question.native}: to be proven by `pw optimize`.")
    spread = max(
        each.prediction.token.high / each.prediction.token.value
        for share in allocation.shares
        for each in share.option.capacities
    )
    if spread > 1.5:
        found.append(
            f"The time of a token is known to a factor of {spread:.1f} only: measure the two loads below, and give "
            "them with --calibrate."
        )
    return tuple(found)
