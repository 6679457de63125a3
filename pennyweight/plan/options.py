"""Which placements are worth planning for, and what each can serve within the limits: everything that fits is
enumerated, and what cannot hold the limits is kept with the reason and the distance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pennyweight.cluster import MachineType
from pennyweight.plan.memory import memory_of
from pennyweight.plan.placement import PRECISIONS, Placement
from pennyweight.plan.prediction import Case, Known, Prediction, Predictor
from pennyweight.plan.prices import TOKEN_TERMS, Load, terms_of
from pennyweight.shape import ModelShape

CONCURRENCIES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
SLOW_LINK = 100e9  # bytes/s, below which layers in a row are worth trying beside shared products


@dataclass(frozen=True)
class Bucket:
    """Requests of like lengths, `rate` of them a second."""

    prompt_tokens: float
    output_tokens: float
    rate: float


@dataclass(frozen=True)
class Limits:
    """Milliseconds of the first token, and of a token, that `attainment` of the requests must keep."""

    ttft_ms: float
    tpot_ms: float
    attainment: float = 0.99


@dataclass(frozen=True)
class Capacity:
    """Of one replica for one bucket: the most requests at a time within the limits, by the upper ends of what is
    predicted for them, and seconds of one request then."""

    load: Load
    prediction: Prediction

    @property
    def request_seconds(self) -> float:
        return self.prediction.first.high + self.prediction.token.high * (self.load.output_tokens - 1)


@dataclass(frozen=True)
class Option:
    """A placement with what it can serve: a capacity for each bucket, or `refused` and how far off it is (1.2: 20%)."""

    placement: Placement
    capacities: tuple[Capacity, ...] = ()
    refused: str = ""
    off_by: float = 0.0


def placements(
    shape: ModelShape, machine: MachineType, *, engines: Sequence[str], precisions: Sequence[str]
) -> Iterator[Placement]:
    """Tensor sizes that divide the heads, attention ranks for mixtures with latent attention or few key-value heads,
    and layers in a row where links are slow."""
    link = machine.link_bandwidth.value if machine.link_bandwidth is not None else 0.0
    for precision in precisions:
        if not _computes(machine, precision):
            continue
        for engine in engines:
            if engine not in machine.engines:
                continue
            for size in _powers(machine.devices):
                if shape.heads % size == 0:
                    yield Placement(machine, engine, precision, tensor=size, expert=1)
                    if shape.experts and size > 1:
                        yield Placement(machine, engine, precision, tensor=size, expert=size)
                if size > 1 and shape.experts:
                    yield Placement(machine, engine, precision, data=size, expert=size)
                if size > 1 and link < SLOW_LINK and shape.layers >= size:
                    yield Placement(machine, engine, precision, pipeline=size)


def options_of(
    shape: ModelShape,
    placements: Sequence[Placement],
    buckets: Sequence[Bucket],
    limits: Limits,
    *,
    predictor: Predictor,
    known: Sequence[Known] = (),
) -> list[Option]:
    """Each placement with its capacities, or why it has none."""
    refused = {place: reason for place, one in enumerate(placements) if (reason := _too_large(shape, one, buckets))}
    cases = list[tuple[tuple[int, int], Case]]()
    for place, placement in enumerate(placements):
        if place not in refused:
            for number, bucket in enumerate(buckets):
                loads = _loads(shape, placement, bucket)
                cases += [((place, number), Case(shape, placement, load)) for load in loads]
    predicted = defaultdict[tuple[int, int], list[Capacity]](list)
    for (key, case), found in zip(cases, predictor.predict([case for _, case in cases], known), strict=True):
        predicted[key].append(Capacity(case.load, found))
    return [
        refused.get(place) or _judged(placement, [predicted[place, number] for number in range(len(buckets))], limits)
        for place, placement in enumerate(placements)
    ]


def _too_large(shape: ModelShape, placement: Placement, buckets: Sequence[Bucket]) -> Option | None:
    memory = memory_of(shape, placement)
    if memory.for_cache <= 0:
        off = (memory.weights + memory.activations) / memory.usable
        return Option(
            placement,
            refused=f"{memory.weights / 1e9:.0f} GB of weights and {memory.activations / 1e9:.1f} GB beside them do "
            f"not fit into {memory.usable / 1e9:.0f} GB of a device",
            off_by=off,
        )
    needed = max(bucket.prompt_tokens + bucket.output_tokens for bucket in buckets)
    if needed > memory.cached_tokens:
        return Option(
            placement,
            refused=f"keys and values of {needed:.0f} tokens do not fit: there is room for {memory.cached_tokens:.0f}",
            off_by=needed / max(1.0, memory.cached_tokens),
        )
    return None


def _loads(shape: ModelShape, placement: Placement, bucket: Bucket) -> list[Load]:
    each = bucket.prompt_tokens + bucket.output_tokens
    most = max(1.0, memory_of(shape, placement).cached_tokens // each) * placement.data
    sizes = [size for size in CONCURRENCIES if placement.data <= size <= most]
    return [Load(bucket.prompt_tokens, bucket.output_tokens, size) for size in sizes or [placement.data]]


def _judged(placement: Placement, by_bucket: Sequence[Sequence[Capacity]], limits: Limits) -> Option:
    found = list[Capacity]()
    for each in by_bucket:
        within = [
            one
            for one in each
            if _token_ms(one) <= limits.tpot_ms and 1000 * one.prediction.first.high <= limits.ttft_ms
        ]
        if not within:
            return _too_slow(placement, each[0], limits)
        found.append(max(within, key=lambda one: one.load.concurrency / one.request_seconds))
    return Option(placement, tuple(found))


def _too_slow(placement: Placement, least: Capacity, limits: Limits) -> Option:
    token, first = _token_ms(least), 1000 * least.prediction.first.high
    name, value, limit = max(
        ("TPOT", token, limits.tpot_ms), ("TTFT", first, limits.ttft_ms), key=lambda row: row[1] / row[2]
    )
    refused = f"{name} may be {value:.0f} ms at {least.load.concurrency:.0f} at a time, {limit:g} are allowed"
    return Option(placement, refused=refused, off_by=value / limit)


def _token_ms(capacity: Capacity) -> float:
    """0 for answers of one token, which have no time of a token."""
    return 1000 * capacity.prediction.token.high if capacity.load.output_tokens > 1 else 0.0


def physical_limit(shape: ModelShape, placement: Placement, bucket: Bucket) -> float:
    """Seconds of a token that no engine goes below: one request alone, its weights, keys and values read once."""
    terms = terms_of(shape, placement, Load(bucket.prompt_tokens, bucket.output_tokens, placement.data)).token
    return float(sum(terms[TOKEN_TERMS.index(name)] for name in ("weights", "keys and values")))


def _computes(machine: MachineType, precision: str) -> bool:
    """4-bit weights are multiplied in 16 bits everywhere, all others need arithmetic of their own."""
    return PRECISIONS[precision][1] in machine.arithmetic_rate


def _powers(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if 2**power <= most]
