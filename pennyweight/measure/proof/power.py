"""What a workload can decide, said before anything is spent: the fewest held-out units that could ever pass a limit,
and how many it takes at the spread that is usual.

The fewest are those that pass where no unit loses anything; with fewer, a proof can only end undecided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pennyweight.budget import ENDING_CLIP, LENGTH_CLIP, Budget
from pennyweight.measure.proof.allowance import Allowance
from pennyweight.workload import Request, clusters

USUAL_FLIPS = 0.02  # share of answers that turn from right to wrong or back, often seen under quantization
USUAL_SPREAD = 0.015  # nats per token: 8-bit weights of a small model on `chat`, measured 2026-11-26
POWER = 0.9
NATS, TASKS = "--max-added-nats", "--max-degradation"


@dataclass(frozen=True)
class Decidable:
    """One limit against the held-out half: `fewest` units could ever pass it, `units` are there. `reachable` is the
    tightest bound that this many units could pass; None where no bound that means anything would do."""

    option: str
    bound: float
    units: int
    fewest: int
    reachable: float | None

    @property
    def possible(self) -> bool:
        return self.units >= self.fewest

    @property
    def mend(self) -> str:
        """The option with what this half can decide; empty where there is no such value."""
        return "" if self.reachable is None else f"{self.option} {_rounded_up(self.reachable):g}"


def decidable(budget: Budget, held_out: Sequence[Request], attempt: int = 1) -> list[Decidable]:
    """Every limit of the budget that a number of requests decides, for this half."""
    units = len(set(clusters(held_out).values()))
    error = Allowance(budget.confidence, attempt).error
    found = [
        _mean("--max-ending-shift", budget.max_ending_shift, ENDING_CLIP, units, error),
        _mean("--max-length-shift", budget.max_length_shift, LENGTH_CLIP, units, error),
    ]
    if budget.max_added_nats is not None:
        nats = _mean(NATS, budget.max_added_nats, budget.clip_nats, units, error)
        found.append(replace(nats, reachable=None))  # the clip is a multiple of the limit, and grows with it
        found.append(_share("--max-tail-share", budget.max_tail_share, units, error))
        found.append(_share("--max-departures", budget.max_departures, units, error))
    if budget.max_degradation is not None:
        labelled = [request for request in held_out if request.labelled]
        count = len(set(clusters(labelled).values()))
        z = _z(error)
        fewest = math.ceil(z * z * (1 - budget.max_degradation) / budget.max_degradation)
        reachable = z * z / (count + z * z)
        found.append(Decidable(TASKS, budget.max_degradation, count, fewest, reachable if count else None))
    return found


def undecidable(budget: Budget, held_out: Sequence[Request], attempt: int = 1) -> str:
    """Which limits this half can never prove, how many requests they take, and which limits it can; empty if all."""
    hopeless = [one for one in decidable(budget, held_out, attempt) if not one.possible]
    labelled = [one for one in hopeless if one.option == TASKS]
    others = [one for one in hopeless if one.option != TASKS]
    return " ".join(_too_few(group, kind) for group, kind in ((others, ""), (labelled, "labelled ")) if group)


def _too_few(hopeless: Sequence[Decidable], kind: str) -> str:
    needed = ", ".join(f"{one.option} {one.bound:g} takes {one.fewest:,}" for one in hopeless)
    most = max(one.fewest for one in hopeless)
    there = hopeless[0].units
    stuck = [one.option for one in hopeless if not one.mend]
    said = (
        f"{there:,} independent {kind}request{' is' if there == 1 else 's are'} held out (half of the sessions; copies "
        f"of a prompt count once), and {needed}: bring enough that {most:,} are held out"
    )
    if stuck not in ([], [NATS]):
        return f"{said}; with so few no other limit helps."
    said += f", or allow {' '.join([one.mend for one in hopeless if one.mend] + [f'{option} 0' for option in stuck])}"
    return f"{said} (no gate on nats: with so few no margin helps)." if stuck else f"{said}."


def outlook(
    budget: Budget, held_out: Sequence[Request], *, spread: float = USUAL_SPREAD, attempt: int = 1
) -> list[str]:
    """What this half can prove where something is lost; `spread` is the standard deviation of a
    unit's loss in nats per token."""
    found = []
    error = Allowance(budget.confidence, attempt).error
    if budget.max_added_nats is not None:
        units = len(set(clusters(held_out).values()))
        worst = budget.clip_nats * (1 - error ** (1 / units)) / 2  # about what the unseen worst case adds
        least = budget.max_added_nats - detectable(spread, units, error) - worst
        found.append(
            f"--max-added-nats {budget.max_added_nats:g}: {units:,} held-out units prove losses up to {least:.4f} "
            f"(at a spread of {spread:g} nats, 9 times in 10)."
            if least > 0
            else f"--max-added-nats {budget.max_added_nats:g}: {units:,} held-out units can prove it only for a model "
            f"that loses next to nothing (at a spread of {spread:g} nats): add requests, or allow more."
        )
    if budget.max_degradation is not None:
        count = len(set(clusters([request for request in held_out if request.labelled]).values()))
        few, many = (labelled_needed(budget.max_degradation, flips, error) for flips in (USUAL_FLIPS, 5 * USUAL_FLIPS))
        found.append(
            f"--max-degradation {budget.max_degradation:.0%}: takes about {few:,} labelled held-out requests if "
            f"{USUAL_FLIPS:.0%} of answers flip and {many:,} if {5 * USUAL_FLIPS:.0%} do; there are {count:,}."
        )
    return found


def labelled_needed(margin: float, flips: float = USUAL_FLIPS, error: float = 0.05) -> int:
    """Labelled pairs for a non-inferiority test of this margin at this share of flipped answers, with 90% power (normal
    approximation for paired proportions: n = flips * (z_error + z_power)^2 / margin^2)."""
    return int(flips * (_z(error) + _z(1 - POWER)) ** 2 / margin**2) + 1


def detectable(spread: float, units: int, error: float = 0.05) -> float:
    """How far below the margin a loss must lie for this many units to show it 9 times in 10, at this standard deviation
    of a unit."""
    return (_z(error) + _z(1 - POWER)) * spread / math.sqrt(max(1, units))


def _mean(option: str, bound: float, clip: float, units: int, error: float) -> Decidable:
    """A bound on a mean of values up to `clip`: of n units that lose nothing it is clip * b / (1 - b), with
    b = 1 - error ** (1 / n)."""
    share = bound / (clip + bound)
    unseen = 1 - error ** (1 / max(1, units))
    fewest = math.ceil(math.log(error) / math.log(1 - share))
    reachable = clip * unseen / max(1 - unseen, 1e-9)
    return Decidable(option, bound, units, fewest, reachable if reachable < 0.95 * clip else None)


def _share(option: str, bound: float, units: int, error: float) -> Decidable:
    """An exact bound on a share: of n units without one it is 1 - error ** (1 / n)."""
    fewest = math.ceil(math.log(error) / math.log(1 - bound)) if bound < 1 else 1
    reachable = 1 - error ** (1 / max(1, units))
    return Decidable(option, bound, units, fewest, reachable if reachable < 0.95 else None)


def _z(error: float) -> float:
    from scipy import stats

    return float(stats.norm.ppf(1 - error))


def _rounded_up(value: float) -> float:
    """To two digits, upwards, so that what is proposed is possible."""
    digits = 10.0 ** (1 - math.floor(math.log10(value)))
    return math.ceil(value * digits) / digits
