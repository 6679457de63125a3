"""What a workload can decide, said before anything is spent: the fewest held-out units that could ever pass a limit,
and how many it takes at the spread that is usual.

The fewest are those that pass where no unit loses anything; with fewer, a proof can only end undecided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pennyweight.budget import Budget
from pennyweight.measure.proof.allowance import Allowance
from pennyweight.workload import Request, clusters

USUAL_FLIPS = 0.02  # share of answers that turn from right to wrong or back, often seen under quantization
POWER = 0.9


@dataclass(frozen=True)
class Decidable:
    """One limit against the held-out half: `fewest` units could ever pass it, `units` are there. `reachable` is the
    tightest bound that so many units could pass."""

    option: str
    bound: float
    units: int
    fewest: int
    reachable: float

    @property
    def possible(self) -> bool:
        return self.units >= self.fewest

    def sentence(self) -> str:
        mend = f"add requests, or allow {self.option} {_rounded_up(self.reachable):g}"
        return (
            f"{self.option} {self.bound:g} takes at least {self.fewest:,} independent held-out requests, and there are "
            f"{self.units:,} (half of the sessions are held out; copies of a prompt count once): {mend}."
        )


def decidable(budget: Budget, held_out: Sequence[Request], attempt: int = 1) -> list[Decidable]:
    """Every limit of the budget that a number of requests decides, for this half."""
    units = len(set(clusters(held_out).values()))
    error = Allowance(budget.confidence, attempt).of_look(0, 1)
    found = [
        _share("--max-ending-shift", budget.max_ending_shift, units, error),
        _share("--max-length-shift", budget.max_length_shift, units, error),
    ]
    if budget.max_added_nats is not None:
        share = budget.max_added_nats / budget.clip_nats
        mean = _share("", share, units, error)
        found.append(Decidable("--max-added-nats", budget.max_added_nats, units, mean.fewest, budget.max_added_nats))
        found.append(_share("--max-tail-share", budget.max_tail_share, units, error))
    if budget.max_degradation is not None:
        labelled = [request for request in held_out if request.labelled]
        count = len(set(clusters(labelled).values()))
        z = _z(error)
        fewest = math.ceil(z * z * (1 - budget.max_degradation) / budget.max_degradation)
        reachable = z * z / (count + z * z)
        found.append(Decidable("--max-degradation", budget.max_degradation, count, fewest, reachable))
    return found


def undecidable(budget: Budget, held_out: Sequence[Request], attempt: int = 1) -> list[str]:
    """A sentence for each limit that this half can never prove, with the limit that it can."""
    return [one.sentence() for one in decidable(budget, held_out, attempt) if not one.possible]


def labelled_needed(margin: float, flips: float = USUAL_FLIPS, error: float = 0.05) -> int:
    """Labelled pairs for a non-inferiority test of this margin at this share of flipped answers, with 90% power (normal
    approximation for paired proportions: n = flips * (z_error + z_power)^2 / margin^2)."""
    return int(flips * (_z(error) + _z(1 - POWER)) ** 2 / margin**2) + 1


def detectable(margin_spread: float, units: int, error: float = 0.05) -> float:
    """The loss below the margin that this many units show with 90% power, at this standard deviation of a unit."""
    return (_z(error) + _z(1 - POWER)) * margin_spread / math.sqrt(max(1, units))


def _share(option: str, bound: float, units: int, error: float) -> Decidable:
    """A bound on a share, or on a mean in shares of its largest value: of n units without a loss it is
    1 - error ** (1 / n)."""
    fewest = math.ceil(math.log(error) / math.log(1 - bound)) if bound < 1 else 1
    return Decidable(option, bound, units, fewest, 1 - error ** (1 / max(1, units)))


def _z(error: float) -> float:
    from scipy import stats

    return float(stats.norm.ppf(1 - error))


def _rounded_up(value: float) -> float:
    """To two digits, upwards, so that what is proposed is possible."""
    digits = 10.0 ** (1 - math.floor(math.log10(value)))
    return math.ceil(value * digits) / digits
