"""How many replicas autoscaling asks for: plain arithmetic, which the compiled simulation compiles as it is."""

from __future__ import annotations

import math


def wanted(
    rate: float,
    growth: float,
    outstanding: float,
    waited: float,
    running: int,
    starting: int,
    tokens_per_second: float,
    tokens_per_replica: float,
    queue_seconds: float,
) -> int:
    """Replicas for the tokens that arrive each second, now or once a replica that is started now is ready, whichever
    are more, and for those outstanding. If a request has waited longer than `queue_seconds`, and no replica is
    `starting` already, a tenth more than are `running`."""
    forecast = rate + (growth if growth > 0 else growth / 3)  # a third of it has happened since the middle of the span
    target = max(math.ceil(forecast / tokens_per_second), math.ceil(outstanding / tokens_per_replica))
    if waited > queue_seconds and starting == 0:
        target = max(target, running + 1 + running // 10)
    return target


def ticks(seconds: float, interval: float) -> int:
    """Whole intervals that cover these seconds, at least one."""
    return max(1, math.ceil(seconds / interval))


def rate_and_growth(
    now: float, before: float, earlier: float, spans: tuple[int, int], interval: float
) -> tuple[float, float]:
    """Tokens a second since `before`, and by how many more they will come one such span from now: as the line through
    this rate and the one between `earlier` and `before` says. The counts are of all tokens that had arrived, `spans`
    the intervals between them."""
    rate = (now - before) / (spans[0] * interval)
    if spans[1] == 0:
        return rate, 0.0
    former = (before - earlier) / (spans[1] * interval)
    return rate, (rate - former) * (1.5 * spans[0]) / (0.5 * (spans[0] + spans[1]))
