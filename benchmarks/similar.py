"""The gate of the cache of similar questions, on pairs of questions and conversations with known answers.

    python -m benchmarks.similar gate [--folds 10] [--seeds 3]      on fow-cache's pairs, and PAWS as traps
    python -m benchmarks.similar conversations                      its 240 pairs of conversations, by the shipped gate
    python -m benchmarks.similar fit FILE                           fit the shipped gate

Needs `pip install fow-cache==0.1.0` (data CC-BY-4.0); PAWS from PENNYWEIGHT_DATA/similarity. Each fold leaves out all
pairs that share a question with it. Beside the pairs, each question of the training folds and its two nearest of other
pairs count as different (with a weight of 0.3): a cache finds neighbours that no trap was written for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pennyweight import codec
from pennyweight.embedding import Reading, SentenceEmbedding
from pennyweight.similarity.bound import THRESHOLDS
from pennyweight.similarity.closeness import closeness
from pennyweight.similarity.differences import Question, vetoed
from pennyweight.similarity.gate import Gate, features_of, fit_gate, shipped_gate
from pennyweight.similarity.volatile import Volatile

FLOOR = THRESHOLDS[-1]
WRONG = (0.01, 0.02, 0.05, 0.10)  # shares of the traps
NEIGHBOURS, WEIGHT = 2, 0.3
FITTED_ON = "600 pairs of fow-cache 0.1.0 (CC-BY-4.0, Mabon ap Gwyn) and the nearest questions of other pairs"


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


@dataclass
class Pairs:
    """Rows of features, whether the answer is the same, and the group of questions that each pair belongs to; `others`
    are pairs of neighbours with both groups."""

    rows: np.ndarray
    same: np.ndarray
    groups: np.ndarray
    others: np.ndarray
    other_groups: np.ndarray
    cosines: np.ndarray
    vetoes: np.ndarray  # of the pairs, and of the neighbours
    other_vetoes: np.ndarray


def fow_pairs() -> list[dict[str, Any]]:
    from fow_cache.data import load_questions

    found: list[dict[str, Any]] = load_questions()
    return found


def paws() -> list[tuple[str, str, bool]]:
    file = Path(os.environ["PENNYWEIGHT_DATA"]) / "similarity/paws_sample.jsonl"
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        met = re.search(r"Sent 1: (.*?)\nSent 2: (.*?)\n", row["prompt"])
        assert met is not None
        found.append((met.group(1), met.group(2), row["completion"].startswith("Yes")))
    return found


class Reader:
    def __init__(self) -> None:
        self._embedding = SentenceEmbedding(num_threads=1, eight_bit=True)
        self._known: dict[str, tuple[Question, Reading]] = {}

    def __call__(self, text: str) -> tuple[Question, Reading]:
        if text not in self._known:
            self._known[text] = Question(text), self._embedding.read([text])[0]
        return self._known[text]

    def features(self, first: str, second: str) -> list[float]:
        (one, near), (other, far) = self(first), self(second)
        return features_of(one, other, closeness(near, far))

    def vetoed(self, first: str, second: str) -> bool:
        return vetoed(self(first)[0], self(second)[0])


def group_of(pairs: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Questions that stand in a pair together, or do over others."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            text = parent[text]
        return text

    for pair in pairs:
        parent[root(pair["a"])] = root(pair["b"])
    numbers = {name: n for n, name in enumerate(sorted({root(text) for text in list(parent)}))}
    return {text: numbers[root(text)] for text in parent}


def prepared(reader: Reader) -> Pairs:
    pairs = fow_pairs()
    groups = group_of(pairs)
    texts = list(groups)
    vectors = np.array([reader(text)[1].vector for text in texts])
    ids = np.array([groups[text] for text in texts])
    others, other_groups, vetoes = [], [], []
    for place, near in enumerate(vectors @ vectors.T):
        for other in [n for n in np.argsort(-near) if ids[n] != ids[place]][:NEIGHBOURS]:
            others.append(reader.features(texts[place], texts[other]))
            other_groups.append((ids[place], ids[other]))
            vetoes.append(reader.vetoed(texts[place], texts[other]))
    rows = np.array([reader.features(pair["a"], pair["b"]) for pair in pairs])
    same = np.array([float(pair["same_answer"]) for pair in pairs])
    return Pairs(
        rows,
        same,
        np.array([groups[pair["a"]] for pair in pairs]),
        np.array(others),
        np.array(other_groups),
        rows[:, 0],
        np.array([reader.vetoed(pair["a"], pair["b"]) for pair in pairs]),
        np.array(vetoes),
    )


def fitted(pairs: Pairs, kept: np.ndarray, others: np.ndarray) -> Gate:
    rows = np.vstack([pairs.rows[kept], pairs.others[others]])
    same = np.concatenate([pairs.same[kept], np.zeros(others.sum())])
    weights = np.concatenate([np.ones(kept.sum()), np.full(others.sum(), WEIGHT)])
    return fit_gate(rows, same, weights, fitted_on=FITTED_ON)


def crossed(pairs: Pairs, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the pairs and of the neighbours by gates that have seen none of their questions."""
    fold_of = np.random.default_rng(seed).permutation(pairs.groups.max() + 1) % folds
    scores, near = np.zeros(len(pairs.rows)), np.zeros(len(pairs.others))
    for fold in range(folds):
        left_out = fold_of[pairs.groups] == fold
        touched = (fold_of[pairs.other_groups] == fold).any(1)
        gate = fitted(pairs, ~left_out, ~touched)
        scores[left_out] = gate.scores(pairs.rows[left_out])
        near[touched] = np.maximum(near[touched], gate.scores(pairs.others[touched]))
    return np.where(pairs.vetoes, 0.0, scores), np.where(pairs.other_vetoes, 0.0, near)


def served_at(scores: np.ndarray, same: np.ndarray, wrong: float) -> tuple[float, float]:
    """The largest share of hits served with at most this share of the traps, and the threshold, above which is
    served."""
    traps = np.sort(scores[same == 0])[::-1]
    threshold = float(traps[int(wrong * len(traps))])
    return float((scores[same == 1] > threshold).mean()), threshold


def gate(folds: int, seeds: int) -> None:
    reader = Reader()
    pairs = prepared(reader)
    for wrong in WRONG:
        say(
            part="gate",
            scorer="MiniLM cosine",
            wrong=wrong,
            hits=round(served_at(pairs.cosines, pairs.same, wrong)[0], 3),
        )
    for seed in range(seeds):
        scores, near = crossed(pairs, folds, seed)
        for wrong in WRONG:
            hits, threshold = served_at(scores, pairs.same, wrong)
            say(
                part="gate",
                scorer="gate",
                seed=seed,
                wrong=wrong,
                hits=round(hits, 3),
                threshold=round(threshold, 3),
                neighbours=round(float((near > threshold).mean()), 3),
            )
    whole = fitted(pairs, np.ones(len(pairs.rows), bool), np.ones(len(pairs.others), bool))
    traps = paws()
    rows = np.array([reader.features(first, second) for first, second, _ in traps])
    same = np.array([float(one) for *_, one in traps])
    vetoes = np.array([reader.vetoed(first, second) for first, second, _ in traps])
    scores, unseen = np.where(vetoes, 0.0, whole.scores(rows)), crossed(pairs, folds, 0)[0]
    for wrong in WRONG:
        over = scores > served_at(unseen, pairs.same, wrong)[1]
        say(
            part="paws",
            at=wrong,
            hits=round(float(over[same == 1].mean()), 3),
            wrong=round(float(over[same == 0].mean()), 3),
            cosine_wrong=round(float((rows[:, 0] > 0.9)[same == 0].mean()), 3),
        )


def conversations() -> None:
    """As the gateway asks: all but the last message must be equal, and the question may depend on nothing else."""
    from fow_cache.data import load_conversations

    reader, shipped, volatile = Reader(), shipped_gate(), Volatile(())
    served: dict[bool, list[bool]] = {True: [], False: []}
    equal = 0
    for pair in load_conversations():
        (*before, kept), (*turns, fresh) = pair["a"], pair["b"]
        together = before == turns
        equal += together
        asked = together and not volatile(fresh["content"]) and not reader.vetoed(kept["content"], fresh["content"])
        score = 0.0
        if asked:
            score = float(shipped.scores(np.array([reader.features(kept["content"], fresh["content"])]))[0])
        served[bool(pair["same_answer"])].append(asked and score >= FLOOR)
    say(
        part="conversations",
        pairs=len(served[True]) + len(served[False]),
        equal_turns=equal,
        hits=f"{sum(served[True])} of {len(served[True])}",
        wrong=f"{sum(served[False])} of {len(served[False])}",
    )


def fit(file: Path) -> None:
    pairs = prepared(Reader())
    made = fitted(pairs, np.ones(len(pairs.rows), bool), np.ones(len(pairs.others), bool))
    file.write_text(json.dumps(codec.plain(made), separators=(",", ":")) + "\n", encoding="utf-8")
    say(part="fit", trees=len(made.trees), bytes=file.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["gate", "conversations", "fit"])
    parser.add_argument("file", type=Path, nargs="?", default=Path("gate.json"))
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.part == "gate":
        gate(given.folds, given.seeds)
    elif given.part == "conversations":
        conversations()
    else:
        fit(given.file)


if __name__ == "__main__":
    main()
