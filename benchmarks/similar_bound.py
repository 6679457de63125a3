"""The bound of similar answers: how often it is broken, and how soon it is withdrawn once it stops holding.

    python -m benchmarks.similar_bound [--only splits drift domain] [--streams 500]

Streams of would-be hits are drawn from fow-cache's pairs, by the scores of gates that have not seen their questions
(benchmarks/similar.py), with 8% of traps, or from PAWS by the shipped gate. So the true share of wrong hits above any
score is known exactly. The gateway's own `SimilarBound` earns and watches.

splits   the bound is broken if a threshold was ever in force above which more than the limit is wrong. Beside it: the
         loosest threshold that meets the limit on the labels of the first look, without a bound
drift    at a moment the right answer of some questions changes: how many hits are served until none is
domain   PAWS, of which the gate knows nothing: how many hits are served at all, and how many of them are wrong
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.similar import Reader, crossed, paws, prepared, say
from pennyweight.serve.gateway.similar_bound import FLOOR, SimilarBound, SimilarFigures
from pennyweight.serve.gateway.similar_store import Kept, Label
from pennyweight.service import SimilarPolicy
from pennyweight.similarity.bound import THRESHOLDS
from pennyweight.similarity.gate import shipped_gate

LIMITS = (0.01, 0.03, 0.05)
TRAPS = 0.08  # of the would-be hits of a stream
LABELS, HITS = 4000, 20_000  # of a stream: until it must be earned, and served afterwards
PARTS = ("splits", "drift", "domain")
CHANGED = (0.1, 0.3, 1.0)  # share of questions with another answer after the drift


class Memory:
    """A store of nothing but what was decided."""

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}

    def state(self) -> dict[str, Any]:
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        self._state = state

    def labels(self, epoch: int) -> list[Label]:
        del epoch
        return []

    def put_label(self, label: Label) -> None:
        del label

    def judged(self) -> dict[str, int]:
        return {}

    def count(self) -> int:
        return 0

    def since(self, partition: str, mark: int) -> tuple[list[Kept], int]:
        del partition
        return [], mark

    def find(self, id: str) -> Kept | None:
        del id
        return None

    def put(self, kept: Kept) -> None:
        del kept

    def forget(self, id: str) -> bool:
        del id
        return False

    def flush(self) -> None:
        """Nothing waits."""

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Population:
    """Would-be hits: scores, whether each is wrong, and how likely it is drawn."""

    scores: np.ndarray
    wrong: np.ndarray
    weights: np.ndarray

    def wrong_above(self, score: float) -> float:
        over = self.scores >= score
        return float((self.weights * self.wrong)[over].sum() / max(1e-12, self.weights[over].sum()))

    def draw(self, count: int, draws: np.random.Generator) -> np.ndarray:
        return draws.choice(len(self.scores), count, p=self.weights)


def population(scores: np.ndarray, wrong: np.ndarray, traps: float) -> Population:
    over = scores >= FLOOR
    scores, wrong = scores[over], wrong[over].astype(bool)
    weights = np.where(wrong, traps / max(1, wrong.sum()), (1 - traps) / max(1, (~wrong).sum()))
    return Population(scores, wrong, weights / weights.sum())


def bound_of(limit: float, explored: float = 0.05) -> SimilarBound:
    registry = CollectorRegistry()
    return SimilarBound(SimilarPolicy(limit, explored=explored), Memory(), SimilarFigures(registry))


def learn(bound: SimilarBound, hits: Population, draws: np.random.Generator, labels: int) -> list[float]:
    """The thresholds that came into force."""
    seen: list[float] = []
    for place in hits.draw(labels, draws):
        bound.take(bound.begin("", float(hits.scores[place])), bool(hits.wrong[place]))
        if bound.threshold is not None and (not seen or seen[-1] != bound.threshold.score):
            seen.append(bound.threshold.score)
    return seen


def naive(hits: Population, limit: float, labels: int, draws: np.random.Generator) -> float | None:
    places = hits.draw(labels, draws)
    scores, wrong = hits.scores[places], hits.wrong[places]
    good = [t for t in THRESHOLDS if (scores >= t).any() and wrong[scores >= t].mean() <= limit]
    return min(good) if good else None


def splits(hits: Population, streams: int) -> None:
    for limit in LIMITS:
        draws, needed = np.random.default_rng(0), bound_of(limit).needed
        broken = naively = 0
        served = []
        for _ in range(streams):
            seen = learn(bound_of(limit), hits, draws, LABELS)
            broken += any(hits.wrong_above(score) > limit for score in seen)
            served.append(float(hits.weights[hits.scores >= seen[-1]].sum()) if seen else 0.0)
            found = naive(hits, limit, needed, draws)
            naively += found is not None and hits.wrong_above(found) > limit
        best = [t for t in THRESHOLDS if hits.wrong_above(t) <= limit]
        say(
            part="splits", limit=limit, streams=streams, first_look=needed, broken=round(broken / streams, 3),
            naive_broken=round(naively / streams, 3), served=round(float(np.mean(served)), 3),
            at_best=round(float(hits.weights[hits.scores >= min(best)].sum()), 3) if best else 0.0,
        )  # fmt: skip


def drift(hits: Population, streams: int) -> None:
    for limit in (0.03, 0.05):
        for changed in (0.0, *CHANGED):
            draws = np.random.default_rng(1)
            until, judged, wrongly, alarms, runs = [], [], [], 0, 0
            for _ in range(streams):
                bound = bound_of(limit)
                learn(bound, hits, draws, LABELS)
                if bound.threshold is None:
                    continue
                runs += 1
                score, seen = bound.threshold.score, bound.alarms
                stream = [place for place in hits.draw(HITS, draws) if hits.scores[place] >= score]
                served = asked = mistaken = 0
                for place in stream:
                    wrong = bool(hits.wrong[place]) or draws.random() < changed
                    if draws.random() < bound.policy.explored:
                        asked += 1
                        bound.take(bound.begin("", float(hits.scores[place])), wrong)
                    else:
                        served, mistaken = served + 1, mistaken + wrong
                    if bound.alarms > seen or bound.threshold is None:
                        alarms += 1
                        until.append(served)
                        judged.append(asked)
                        wrongly.append(mistaken)
                        break
            say(
                part="drift", limit=limit, changed=changed, runs=runs, switched_off=alarms,
                served_until=_quantiles(until), judged_until=_quantiles(judged), wrong_until=_quantiles(wrongly),
            )  # fmt: skip


def domain(streams: int) -> None:
    reader, gate = Reader(), shipped_gate()
    rows = paws()
    features = np.array([reader.features(first, second) for first, second, _ in rows])
    vetoes = np.array([reader.vetoed(first, second) for first, second, _ in rows])
    scores = np.where(vetoes, 0.0, gate.scores(features))
    hits = population(
        scores, np.array([not same for *_, same in rows]), float(np.mean([not same for *_, same in rows]))
    )
    draws, ever, broken = np.random.default_rng(2), 0, 0
    for _ in range(streams):
        seen = learn(bound_of(0.05), hits, draws, LABELS)
        ever, broken = ever + bool(seen), broken + any(hits.wrong_above(score) > 0.05 for score in seen)
    best = [t for t in THRESHOLDS if hits.wrong_above(t) <= 0.05]
    say(
        part="domain", limit=0.05, streams=streams, would_be_hits=len(hits.scores), ever_served=ever, broken=broken,
        at_best=round(float(hits.weights[hits.scores >= min(best)].sum()), 3) if best else 0.0,
        wrong_above_the_floor=round(hits.wrong_above(FLOOR), 3),
    )  # fmt: skip


def _quantiles(values: list[int]) -> list[int]:
    return [int(np.percentile(values, p)) for p in (50, 95)] if values else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=["splits", "drift", "domain"], default=["splits", "drift", "domain"]
    )
    parser.add_argument("--streams", type=int, default=500)
    given = parser.parse_args()
    logging.getLogger("pennyweight.gateway").setLevel(logging.ERROR)
    if {"splits", "drift"} & set(given.only):
        pairs = prepared(Reader())
        scores, _ = crossed(pairs, 10, 0)
        hits = population(scores, pairs.same == 0, TRAPS)
        say(
            part="population", pairs=len(hits.scores), wrong={t: round(hits.wrong_above(t), 4) for t in THRESHOLDS[::6]}
        )
        if "splits" in given.only:
            splits(hits, given.streams)
        if "drift" in given.only:
            drift(hits, max(1, given.streams // 5))
    if "domain" in given.only:
        domain(given.streams)


if __name__ == "__main__":
    main()
