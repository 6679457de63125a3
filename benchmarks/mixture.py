"""Mixtures: does a certificate hold as often as it says, and how many requests does it keep?

python -m benchmarks.mixture [--only rows margin race] [--rows gsm8k mmlu] [--splits 500]

rows    RouteLLM's rows (PENNYWEIGHT_DATA/router: answers of a strong and a weak model to MMLU and GSM8K, marked right
        or wrong), split 40/30/30 many times: a router fitted on the first part, certified on the second at "95% of the
        strong model's score", and judged on the third. Beside it: the threshold that meets the bound on the second
        part without a certificate, and routing by chance. Needs the extra `pennyweight[similar]`.
margin  made-up models whose true loss is exactly the limit: how often a certificate is given all the same
race    three made-up models, the cheapest first: how often one exactly at the limit is accepted; and where the first
        loses two limits too much and the second is two limits better than it must be: how often that is chosen, and
        with which share of the requests that asking all models everything takes
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pennyweight.measure.certificate import Outcomes, certify, thresholds_of
from pennyweight.mixing.regression import loss_scores
from pennyweight.mixing.router import fit_router, router_features
from pennyweight.mixture import Limit
from pennyweight.search import racing

Floats = NDArray[np.float64]
PARTS = (0.4, 0.7)
LIMIT = Limit(0.05)
ERROR = 0.05
WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"


@dataclass(frozen=True)
class Rows:
    name: str
    texts: list[str]
    small: Floats
    large: Floats


def say(**row: object) -> None:
    print(json.dumps(row), flush=True)


def read_rows(names: Sequence[str]) -> Iterator[Rows]:
    place = Path(os.environ["PENNYWEIGHT_DATA"]) / "router"
    for name in names:
        rows = [row for file in sorted((place / f"routellm_{name}").glob("*.csv")) for row in _read(file)]
        small, large = (np.array([row[model] == "True" for row in rows], float) for model in (WEAK, STRONG))
        yield Rows(name, [row["prompt"] for row in rows], small, large)


def _read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


Judged = tuple[float, bool, bool]


def split(rows: Rows, embeddings: Floats, seed: int) -> dict[str, Judged]:
    """One split: policy -> share of the judged part that is kept; whether the true loss is above the limit, which is
    that on all rows but those that were fitted on, from which the certifying ones were drawn; and whether that on the
    judged part is, which has a spread of its own."""
    order = np.random.default_rng(seed).permutation(len(rows.texts))
    first, second = (int(part * len(order)) for part in PARTS)
    fitted, certified, judged = np.split(order, [first, second])
    texts = [rows.texts[n] for n in fitted]
    router = fit_router(embeddings[fitted], texts, rows.small[fitted], rows.large[fitted])
    scores = loss_scores(router, router_features(embeddings, rows.texts))
    chance = np.random.default_rng(seed + 1).random(len(order))
    found = {}
    for name, by in (("router", scores), ("chance", chance)):
        outcomes = Outcomes(by[certified], rows.small[certified], rows.large[certified])
        thresholds = thresholds_of(by[fitted])
        chosen = certify(outcomes, thresholds, LIMIT, error=ERROR).chosen
        meets = [t for t in thresholds if _lost(rows, certified, by, t)[1] <= LIMIT.share]
        ways = {"certified": chosen.threshold if chosen else -np.inf, "naive": max(meets, default=-np.inf)}
        for way, threshold in ways.items():
            kept, lost = _lost(rows, judged, by, threshold)
            _, truly = _lost(rows, order[first:], by, threshold)
            found[f"{name}, {way}"] = (kept, truly > LIMIT.share, lost > LIMIT.share)
    return found


def _lost(rows: Rows, which: NDArray[np.int_], scores: Floats, threshold: float) -> tuple[float, float]:
    """The share that is kept, and what of the strong model's score is lost by it."""
    kept = scores[which] <= threshold
    return float(kept.mean()), float(((rows.large - rows.small)[which] * kept).sum() / rows.large[which].sum())


def run_rows(splits: int, names: Sequence[str]) -> None:
    from pennyweight.embedding import SentenceEmbedding

    embed = SentenceEmbedding()
    for rows in read_rows(names):
        embeddings = embed(rows.texts)
        found: dict[str, list[Judged]] = {}
        for seed in range(splits):
            for policy, result in split(rows, embeddings, seed).items():
                found.setdefault(policy, []).append(result)
        for policy, results in found.items():
            kept, broken, seen = np.array(results, float).T
            error = float(np.sqrt(broken.mean() * (1 - broken.mean()) / len(broken)))
            say(rows=rows.name, requests=len(rows.texts), splits=splits, policy=policy,
                kept=round(float(kept.mean()), 4), bound_broken=round(float(broken.mean()), 4),
                standard_error=round(error, 4), judged_part_above=round(float(seen.mean()), 4))  # fmt: skip


def run_margin(runs: int) -> None:
    """Kept requests lose exactly the limit, in several ways."""
    for form in ("net", "kept"):
        for count in (100, 300, 1000):
            for gains in (0.0, 0.03):
                limit = Limit(0.05, form)  # type: ignore[arg-type]
                given = 0
                for seed in range(runs):
                    generator = np.random.default_rng(seed)
                    lost = generator.random(count)
                    share = limit.share + (gains if form == "net" else 0.0)
                    small = np.where(lost < share, 0.0, 1.0)
                    large = np.where((lost >= share) & (lost < share + gains), 0.0, 1.0)
                    # net: Σ(large - small) = (share - gains)·n, against limit · Σ large: gains lower the latter, too
                    outcomes = Outcomes(np.zeros(count), small, large)
                    given += certify(outcomes, [0.0], limit, error=ERROR).chosen is not None
                say(margin=form, requests=count, gains=gains, runs=runs, certified=round(given / runs, 4))


def made_up(lost: float, count: int, generator: np.random.Generator) -> racing.Ask:
    """The reference is right in 80%; the model loses this share of its score, net of what it gains where the reference
    is wrong."""
    reference = (generator.random(count) < 0.8).astype(float)
    gained = max(0.05, 0.05 - 4 * lost)
    fails = generator.random(count) < lost + gained / 4
    gains = generator.random(count) < gained
    scores = np.where(reference == 1, ~fails, gains).astype(float)
    return lambda asked: (scores[:asked], reference[:asked])


def run_race(runs: int) -> None:
    share = LIMIT.share
    for count in (500, 1000, 2000):
        accepted, right, asked = 0, 0, []
        for seed in range(runs):
            generator = np.random.default_rng([count, seed])
            at = [(str(n), made_up(share, count, generator)) for n in range(3)]
            accepted += racing.race(at, count, share, error=ERROR)[-1].outcome == "accepted"
            losses = (3 * share, -share, 0.0)
            models = [(str(n), made_up(lost, count, generator)) for n, lost in enumerate(losses)]
            found = racing.race(models, count, share, error=ERROR)
            right += (found[-1].name, found[-1].outcome) == ("1", "accepted")
            asked.append(sum(race.looks[-1].requests for race in found) / (3 * count))
        share_asked = round(float(np.mean(asked)), 3)
        say(race=count, runs=runs, one_at_the_limit_accepted=round(accepted / runs, 4),
            right_choice=round(right / runs, 4), share_of_exhaustive_requests=share_asked)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["rows", "margin", "race"])
    parser.add_argument("--rows", nargs="+", default=["gsm8k", "mmlu"])
    parser.add_argument("--splits", type=int, default=500)
    given = parser.parse_args()
    if "margin" in given.only:
        run_margin(given.splits)
    if "race" in given.only:
        run_race(given.splits)
    if "rows" in given.only:
        run_rows(given.splits, given.rows)


if __name__ == "__main__":
    main()
