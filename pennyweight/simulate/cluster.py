"""What is simulated: pools of equal replicas, how requests are spread over them, how they fail and how they scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import StrEnum

from pennyweight.errors import UsageError
from pennyweight.step_price import ReplicaLimits, StepPrice


class Router(StrEnum):
    """How a request's replica is chosen among those that take requests. Ties go to the first."""

    GATEWAY = "gateway"  # as our gateway does: pennyweight.balancing
    ROUND_ROBIN = "round-robin"
    POWER_OF_TWO = "power-of-two"  # of two drawn at random, the one with fewer outstanding tokens
    LEAST_OUTSTANDING = "least-outstanding"
    PREFIX_AFFINITY = "prefix-affinity"  # the one that knows most of the prompt, however busy, if it knows half of it
    SESSION_AFFINITY = "session-affinity"  # a session stays on its replica while that one runs: consistent hashing


class AfterFailure(StrEnum):
    """What becomes of a request whose replica died after its first token."""

    AGAIN = "again"  # its tokens are lost, and it starts anew
    CONTINUE = "continue"  # another replica reads the prompt and the tokens so far, and goes on


@dataclass(frozen=True)
class Pool:
    """Replicas that cost the same and hold the same. With autoscaling, `replicas` are those that run at the start."""

    replicas: int
    price: StepPrice
    limits: ReplicaLimits

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise UsageError(f"A pool of {self.replicas} replicas serves nothing: give 1 or more.")
        _check_price(self.price)
        _check_limits(self.limits)


@dataclass(frozen=True)
class Failure:
    """A replica is killed. It starts again at once, and takes requests `start_seconds` later."""

    replica: int
    seconds: float


@dataclass(frozen=True)
class Autoscaling:
    """Every `interval` seconds, as many replicas as the tokens that arrive need at `tokens_per_second` each, or those
    outstanding at `tokens_per_replica` each if these are more, and `spare` more, so that one may fail. Tokens are of
    prompts and answers.

    The arriving tokens are those of the last `start_seconds`, and as many more as will come one such time from now if
    they go on growing: a replica that is started now takes requests only then. A request that has waited longer than
    `queue_seconds` for its admission asks for a tenth more replicas than there are, while none is starting. Fewer
    replicas are kept only once `patience` seconds have asked for no more: those that are drained take no new requests,
    and stop when their last one is answered.
    """

    minimum: int
    maximum: int
    tokens_per_second: float
    tokens_per_replica: float = 1e18
    queue_seconds: float = 1.0
    interval: float = 10.0
    patience: float = 60.0
    spare: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise UsageError(
                f"Autoscaling from {self.minimum} to {self.maximum} replicas is not possible: "
                "give a minimum of 1 or more, and a maximum that is not below it."
            )
        positive = (self.tokens_per_second, self.tokens_per_replica, self.interval)
        if not all(0 < value < math.inf for value in positive):
            raise UsageError(
                "Autoscaling needs tokens_per_second, tokens_per_replica and interval above 0: give finite numbers."
            )
        if not all(0 <= value < math.inf for value in (self.queue_seconds, self.patience, self.spare)):
            raise UsageError("Autoscaling's queue_seconds, patience and spare must not be negative: give 0 or more.")


@dataclass(frozen=True)
class Disaggregation:
    """The cluster's pool only reads prompts; keys and values then travel to this one, which only decodes. The way takes
    `transfer_seconds_per_token` for each token that has been read."""

    decode: Pool
    transfer_seconds_per_token: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.transfer_seconds_per_token < math.inf:
            raise UsageError("transfer_seconds_per_token must be finite and not negative: give seconds per token.")


@dataclass(frozen=True)
class SimulatedCluster:
    """`max_requests_per_replica` bounds the unanswered requests at one replica: the router keeps the others, first
    come, first served. 0: no bound, so that they queue at the replicas."""

    pool: Pool
    disaggregation: Disaggregation | None = None
    failures: tuple[Failure, ...] = ()
    after_failure: AfterFailure = AfterFailure.CONTINUE
    autoscaling: Autoscaling | None = None
    max_requests_per_replica: int = 0

    def __post_init__(self) -> None:
        scaling = self.autoscaling
        if self.max_requests_per_replica < 0:
            raise UsageError("max_requests_per_replica is negative: give 0 for no bound, or 1 or more.")
        if scaling and self.disaggregation:
            raise UsageError("Pools for prefill and decode do not scale in the simulation: leave autoscaling out.")
        if scaling and not scaling.minimum <= self.pool.replicas <= scaling.maximum:
            raise UsageError(
                f"The pool starts with {self.pool.replicas} replicas, outside autoscaling's {scaling.minimum} to "
                f"{scaling.maximum}: start with a number between them."
            )
        for failure in self.failures:
            if not 0 <= failure.replica < self.slots:
                raise UsageError(
                    f"Replica {failure.replica} cannot fail: the cluster's are numbered 0 to {self.slots - 1}."
                )
            if not 0 <= failure.seconds < math.inf:
                raise UsageError(f"A failure at {failure.seconds} s is not possible: give a time of 0 or later.")

    @property
    def pools(self) -> tuple[Pool, ...]:
        return (self.pool, self.disaggregation.decode) if self.disaggregation else (self.pool,)

    @property
    def slots(self) -> int:
        """Replicas that may run at one time, numbered from 0; those of the decode pool come last."""
        first = self.autoscaling.maximum if self.autoscaling else self.pool.replicas
        return first + sum(pool.replicas for pool in self.pools[1:])


def _check_price(price: StepPrice) -> None:
    values = {field.name: float(getattr(price, field.name)) for field in fields(price)}
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise UsageError(f"A step price with {name} = {value} is not possible: give finite seconds, not below 0.")
    if min(price.seconds(sequences=1, context_tokens=1), price.seconds(prompt_tokens=1, prompt_pairs=1)) <= 0:
        raise UsageError("A step price of 0 would serve without end in no time: give a step or token above 0 seconds.")


def _check_limits(limits: ReplicaLimits) -> None:
    for field in ("max_num_seqs", "max_num_batched_tokens", "num_kv_blocks", "block_size", "data_parallel_size"):
        if getattr(limits, field) < 1:
            raise UsageError(f"{field} = {getattr(limits, field)} serves nothing: give 1 or more.")
    if not 0 <= limits.start_seconds < math.inf:
        raise UsageError(f"start_seconds = {limits.start_seconds} is not possible: give 0 or more.")
