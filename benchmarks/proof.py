"""How often is a broken deployment accepted, and a good one refused? Monte Carlo through the product's own functions.

python -m benchmarks.proof [--runs 400] [--only power repeated flips margin usual] [--evidence DIR]

Losses are drawn by shape, at the margin or at half of it, and judged as `evaluate` does: same looks, same allowance,
same parts. Each row says what is true (the mean of clipped losses, the share of sessions beyond the clip) and how often
it was accepted: at most 5% where the mean is at the margin of 0.02 or the share at its limit of 0.1. With --evidence,
power is computed on the losses that a real search measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from pennyweight import formats
from pennyweight.budget import Budget, Outcome
from pennyweight.evidence import Reference
from pennyweight.measure.proof.allowance import Allowance, look_sizes
from pennyweight.measure.proof.asking import Answered, Scored
from pennyweight.measure.proof.pair import Pair
from pennyweight.measure.proof.proof import judged
from pennyweight.measure.proof.units import Units
from pennyweight.workload import Request, clusters

BUDGET = Budget(max_added_nats=0.02)
OWN = -0.5
LENGTHS = (2, 4, 6, 8, 10)  # tokens: as unequal as the demo's answers, and quick to simulate
Floats = NDArray[np.float64]
Shape = Callable[[np.random.Generator, int], Floats]


def rare(share: float, loss: float) -> Shape:
    return lambda random, count: np.where(random.random(count) < share, loss, 0.0) + random.normal(0, 0.005, count)


SHAPES: dict[str, Shape] = {
    "normal, sd 0.015": lambda random, count: random.normal(0.02, 0.015, count),
    "normal, sd 0.05": lambda random, count: random.normal(0.02, 0.05, count),
    "20% lose 0.1": rare(0.20, 0.1),
    "10% lose 0.2": rare(0.10, 0.2),
    "5% lose 0.4": rare(0.05, 0.4),
    "2% lose 1": rare(0.02, 1.0),
    "1% loses 2": rare(0.01, 2.0),
    "half lose 0.04": rare(0.50, 0.04),
}


def pair_of(number: int, nats: float, length: int, *, right: tuple[bool, bool] | None = None, prompt: int = -1) -> Pair:
    """A held-out request that loses this much a token, and is the reference in all else."""
    answer = tuple(range(10, 10 + length))
    reference = Reference(
        f"r{number}", (1, 2), answer, "", (OWN,) * length, (), right[0] if right else None, finish="length"
    )
    scored = Scored((OWN - nats,) * length, tuple(((token, OWN - nats),) for token in answer))
    asked = Request(f"r{number}", f"s{number}", length, prompt=f"p{number if prompt < 0 else prompt}")
    answered = Answered((1, 2), answer, (OWN - nats,) * length, "", "length", {})
    return Pair(asked, f"s{number}", reference, answered, scored, right=right[1] if right else None)


def pairs_of(losses: Floats, lengths: NDArray[np.int64], copies: int = 1) -> tuple[list[Pair], Units]:
    pairs = [
        pair_of(number, float(nats), int(length), prompt=number // copies)
        for number, (nats, length) in enumerate(zip(losses, lengths, strict=True))
    ]
    of = clusters([pair.request for pair in pairs])
    units = Units(of, float(lengths.sum()) / len(set(of.values())))
    return [Pair(p.request, of[p.request.id], p.reference, p.answered, p.scored, right=p.right) for p in pairs], units


def accepted(pairs: Sequence[Pair], units: Units, budget: Budget = BUDGET, attempt: int = 1) -> bool:
    """As `evaluate` decides, look by look."""
    allowance, looks = Allowance(budget.confidence, attempt), look_sizes(len(pairs))
    for number, size in enumerate(looks):
        error = allowance.of_look(number, len(looks))
        _, verdict = judged(pairs[:size], units, budget, error, left_out={"divergence": "not simulated"})
        if verdict.outcome is not Outcome.INCONCLUSIVE:
            return verdict.outcome is Outcome.ACCEPT
    return False


def draw(random: np.random.Generator, shape: Shape, count: int) -> tuple[list[Pair], Units]:
    return pairs_of(shape(random, count), random.choice(LENGTHS, count))


def claim(shape: Shape) -> tuple[float, float]:
    """The true mean of clipped losses, and the true share of sessions beyond the clip, from a large sample."""
    random = np.random.default_rng(99)
    losses, lengths = shape(random, 200_000), random.choice(LENGTHS, 200_000).astype(float)
    bound = BUDGET.clip_nats * lengths.mean()
    nats = losses * lengths
    return float(np.clip(nats, -bound, bound).sum() / lengths.sum()), float((nats > bound).mean())


def at_the_margin(shape: Shape) -> Shape:
    """The shape with so much added to every loss that the mean of clipped losses is the margin."""
    added = optimize.brentq(lambda x: claim(lambda r, n: shape(r, n) + x)[0] - BUDGET.max_added_nats, -0.05, 0.05)
    return lambda random, count: shape(random, count) + added


def show(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def false_accepts(runs: int, sizes: Sequence[int], *, shifted: bool) -> None:
    """Each shape as it is, or shifted until the mean of its clipped losses is the margin."""
    for name, shape in SHAPES.items():
        drawn = at_the_margin(shape) if shifted else shape
        mean, beyond = claim(drawn)
        for count in sizes:
            random = np.random.default_rng(count)
            share = np.mean([accepted(*draw(random, drawn, count)) for _ in range(runs)])
            what = "clipped mean at the margin" if shifted else "as it is"
            show(shape=name, what=what, clipped_mean=mean, beyond=beyond, n=count, accepted=float(share))


def repeated(runs: int) -> None:
    """Many candidates on one half, many seeds of one workload, and copies of few prompts; each at the margin."""
    shape, random = SHAPES["normal, sd 0.015"], np.random.default_rng(7)
    found = [any(accepted(*draw(random, shape, 96), attempt=n + 1) for n in range(8)) for _ in range(runs)]
    show(case="8 candidates", n=96, false=float(np.mean(found)))
    hits = 0
    for _ in range(runs):
        losses, lengths = shape(random, 192), random.choice(LENGTHS, 192)
        for seed in range(6):
            half = np.random.default_rng(seed).permutation(192)[:96]
            if accepted(*pairs_of(losses[half], lengths[half]), attempt=seed + 1):
                hits += 1
                break
    show(case="6 seeds", n=96, false=hits / runs)
    copied = [
        accepted(*pairs_of(np.repeat(shape(random, 8), 8), np.repeat(random.choice(LENGTHS, 8), 8), copies=8))
        for _ in range(runs)
    ]
    show(case="64 lines of 8 prompts", n=64, false=float(np.mean(copied)))


def flips(runs: int) -> None:
    """Labelled answers whose true loss is the margin."""
    for count, margin, gained in ((200, 0.05, 0.0), (200, 0.05, 0.02), (500, 0.02, 0.0), (500, 0.02, 0.01)):
        random, hits = np.random.default_rng(count), 0
        budget = Budget(max_added_nats=None, max_degradation=margin)
        for _ in range(runs):
            right = random.random(count) < 0.8
            lose = right & (random.random(count) < (0.8 * margin + gained) / 0.8)
            gain = ~right & (random.random(count) < gained / 0.2)
            after = (right & ~lose) | gain
            pairs = [pair_of(n, 0.0, 4, right=(bool(right[n]), bool(after[n]))) for n in range(count)]
            hits += accepted(pairs, Units({p.request.id: p.unit for p in pairs}, 4.0), budget)
        show(case="labelled, at the margin", n=count, margin=margin, gained=gained, false=hits / runs)


def power(runs: int, evidence: Path | None) -> None:
    """At half the margin: how often is a good deployment accepted?"""
    residuals = np.random.default_rng(1).normal(0, 0.015, 1000)
    if evidence is not None:
        found = formats.read("evidence", evidence / formats.EVIDENCE_FILE)
        raw = np.array(found.quality.quantities["added_nats"].raw)
        residuals = raw - raw.mean()
    for attempt in (1, 2, 3):
        for count in (64, 96, 200):
            random = np.random.default_rng(count)
            share = np.mean(
                [
                    accepted(*draw(random, lambda r, n: 0.01 + r.choice(residuals, n), count), attempt=attempt)
                    for _ in range(runs)
                ]
            )
            show(
                case="power at half the margin",
                sd=float(residuals.std()),
                n=count,
                attempt=attempt,
                accepted=float(share),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 200, 500])
    parser.add_argument("--evidence", type=Path, help="output of a search, for its measured losses")
    parser.add_argument("--only", nargs="+", default=["power", "repeated", "flips", "margin", "usual"])
    arguments = parser.parse_args()
    if "power" in arguments.only:
        power(arguments.runs, arguments.evidence)
    if "repeated" in arguments.only:
        repeated(arguments.runs)
    if "flips" in arguments.only:
        flips(arguments.runs)
    if "margin" in arguments.only:
        false_accepts(arguments.runs, arguments.sizes, shifted=True)
    if "usual" in arguments.only:
        false_accepts(arguments.runs, arguments.sizes, shifted=False)


if __name__ == "__main__":
    main()
