"""The plan: of all placements the cheapest set that holds the limits by the pessimistic ends of what is predicted, why
it looks so, what was not possible and by how much, and which two measurements would say the most."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pennyweight.cluster import MachineType
from pennyweight.errors import Infeasible, UsageError
from pennyweight.plan.allocation import Allocation, Share, allocate, replicas_alone
from pennyweight.plan.options import CONCURRENCIES, Bucket, Limits, Option, options_of, physical_limit, placements
from pennyweight.plan.placement import PRECISIONS, Placement
from pennyweight.plan.prediction import Case, Known, Predictor
from pennyweight.plan.prices import Load
from pennyweight.shape import ModelShape

MOST_ATTAINED = 0.9999
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
        if not 0.5 <= self.limits.attainment <= MOST_ATTAINED:
            raise UsageError(
                f"An attainment of {100 * self.limits.attainment:g}% cannot be planned for: give 50% to 99.99%, since "
                "some request is always late."
            )
        unknown = [name for name in self.engines if not any(name in machine.engines for machine in self.machines)]
        if unknown:
            known = sorted({name for machine in self.machines for name in machine.engines})
            raise UsageError(f"{unknown[0]} runs on none of these machine types: use {', '.join(known)}.")
        unknown = [name for name in self.precisions if name not in PRECISIONS]
        if unknown:
            raise UsageError(f"The precision {unknown[0]} is unknown: use {', '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class Alternative:
    """An option that alone would serve everything, and the price an hour of its share of machines."""

    option: Option
    replicas: float
    hourly_usd: float


@dataclass(frozen=True)
class Plan:
    question: Question
    allocation: Allocation
    options: tuple[Option, ...]
    reasons: tuple[str, ...]
    alternatives: tuple[Alternative, ...]
    impossible: tuple[str, ...]
    to_measure: tuple[Load, ...]
    notes: tuple[str, ...] = ()


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
    return explained(question, predictor, options, allocation)


def explained(question: Question, predictor: Predictor, options: Sequence[Option], allocation: Allocation) -> Plan:
    """An allocation with what is to be said of it."""
    shares = allocation.shares
    reasons = [
        f"{describe(share)}: {reason}" if len(shares) > 1 else reason
        for share in shares
        for reason in _reasons(share, shares, options)
    ]
    return Plan(
        question,
        allocation,
        tuple(options),
        tuple(reasons),
        _alternatives([one for one in options if one.capacities], question, allocation),
        _impossible(options),
        measurements(question, shares[0], predictor),
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
    if smaller:
        nearest = max(smaller, key=lambda one: one.placement.devices)
        if nearest.refused:
            found.append(f"{placement.devices} devices a replica: on {nearest.placement.devices} {nearest.refused}.")
        elif fills:
            found.append(f"{placement.devices} devices a replica: they are left of a machine that is paid whole.")
        elif _served(share.option) > _served(nearest):
            found.append(
                f"{placement.devices} devices a replica: each serves more than on {nearest.placement.devices}."
            )
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
        other = Alternative(one, replicas, replicas * hourly)
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
    for precision in dict.fromkeys(share.option.placement.precision for share in allocation.shares):
        if is_below(precision, question.native):
            found.append(f"{precision} is below the model's own {question.native}: to be proven by `pw optimize`.")
    chosen = [share.option.placement for share in allocation.shares]
    own = [run for run in question.known if any(_is_same(run.case.placement, one) for one in chosen)]
    if question.known and len(own) < 2:
        found.append(
            f"{len(own)} of the {len(question.known)} measured runs are of this very placement: two of it correct it, "
            "others only as far as they are alike."
        )
    spread = max(
        each.prediction.token.high / each.prediction.token.value
        for share in allocation.shares
        for each in share.option.capacities
    )
    if spread > 1.5:
        found.append(
            f"The time of a token is known to a factor of {spread:.1f} only: measure the two loads above, and give "
            "them with --calibrate."
        )
    return tuple(found)


def is_below(precision: str, native: str) -> bool:
    """Has it fewer bits than the model as it is, so that its quality is to be proven?"""
    return PRECISIONS[precision][0] < PRECISIONS[native][0]


def _is_same(left: Placement, right: Placement) -> bool:
    return replace(left, version="") == replace(right, version="")


def _served(option: Option) -> float:
    """Requests a second of a device, of the first bucket."""
    capacity = option.capacities[0]
    return capacity.load.concurrency / capacity.request_seconds / option.placement.devices
