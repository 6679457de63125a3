"""A judge that labels correct: whatever it says, what is certified holds; and a good one costs less confidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pennyweight.errors import StorageError, WorkloadError
from pennyweight.measure.certificate import Outcomes, certify
from pennyweight.mixture import Limit
from pennyweight.search.judging import Judgement, Judgements, Judging, answers_hash, ask_judge, labelled_shares, most_of
from pennyweight.search.judging import refuse_unjudged as refuse
from pennyweight.search.outcomes import Outcome
from pennyweight.serve import Endpoint
from pennyweight.workload import Request

SHARE = 0.5  # of the requests has a label
LABEL: Any = {"reference": "", "scorer": "exact"}


def half(
    count: int, seed: int, place: Path, *, lost: float, honest: bool
) -> tuple[Judging, list[Any], np.ndarray, np.ndarray]:
    """Requests of which half have a label, both models' answers, and a judge who sees what is wrong or praises all.
    -> with what both truly score"""
    draw = np.random.default_rng(seed)
    large, wrong = draw.random(count) < 0.9, draw.random(count) < lost
    small = large & ~wrong
    labelled = draw.random(count) < SHARE
    requests = [
        Request(
            f"{seed} {n}", f"{seed} {n}", 8, prompt="?", **({"reference": "", "scorer": "exact"} if labelled[n] else {})
        )
        for n in range(count)
    ]
    judgements = Judgements(place / f"{seed}.jsonl")
    for request, bad in zip(requests, large & ~small, strict=True):
        judgements.add(Judgement(request.id, "small", 0.1 if bad and honest else 0.9))
    rows = [
        (
            request,
            Outcome(request.id, "small", "a", "stop", float(small[n]) if labelled[n] else None),
            Outcome(request.id, "large", "b", "stop", float(large[n]) if labelled[n] else None),
        )
        for n, request in enumerate(requests)
    ]
    return Judging(judgements, "large"), rows, small.astype(float), large.astype(float)


def scored(seed: int, place: Path, *, lost: float, honest: bool, count: int = 600) -> tuple[Outcomes, float]:
    """Corrected scores of a held-out half with a judge fitted on a tuning half, and the true loss."""
    tuner, rows, *_ = half(count, 2 * seed, place, lost=lost, honest=honest)
    tuner.fit("small", [row for row in rows if row[0].labelled])
    judging, rows, small, large = half(count, 2 * seed + 1, place, lost=lost, honest=honest)
    judging.calibrations = tuner.calibrations
    requests = [row[0] for row in rows]
    shares = labelled_shares(requests)
    mine, its = (
        judging.scores(name, [(r, s if name == "small" else g, g) for r, s, g in rows], shares)
        for name in ("small", "large")
    )
    return Outcomes(np.zeros(count), mine, its, (), None, most_of(requests)), 1 - small.sum() / large.sum()


@pytest.mark.parametrize("honest", [True, False])
def test_the_corrected_loss_is_the_true_one_on_average_whatever_the_judge(tmp_path: Path, honest: bool) -> None:
    found = []
    for seed in range(30):
        outcomes, true = scored(seed, tmp_path, lost=0.1, honest=honest, count=300)
        found.append((outcomes.large - outcomes.small).sum() / outcomes.large.sum() - true)
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found)) + 0.002


def test_a_judge_who_praises_all_certifies_nothing_that_loses_too_much(tmp_path: Path) -> None:
    held = [
        certify(scored(seed, tmp_path, lost=0.12, honest=False)[0], [0.0], Limit(0.1), error=0.05).chosen is not None
        for seed in range(40)
    ]
    assert sum(held) <= 2


def test_a_good_judge_helps_to_certify_what_holds(tmp_path: Path) -> None:
    spread = {
        honest: np.mean(
            [np.std(o.large - o.small) for o in (scored(s, tmp_path, lost=0.1, honest=honest)[0] for s in range(5))]
        )
        for honest in (True, False)
    }
    assert spread[True] < 0.8 * spread[False]
    outcomes, _ = scored(7, tmp_path, lost=0.01, honest=True, count=1500)
    assert certify(outcomes, [0.0], Limit(0.05), error=0.05).chosen is not None


def test_what_cannot_be_corrected_is_refused() -> None:
    plain = [Request(f"{n}", f"{n}", 8, prompt="?", kind="chat") for n in range(100)]
    with pytest.raises(WorkloadError, match="label at least 30"):
        refuse(plain, "tuning")
    maths = [replace(r, id=f"m{r.id}", kind="maths", reference="1", scorer="numeric") for r in plain]
    with pytest.raises(WorkloadError, match="'chat' in the held-out half"):
        refuse([*plain, *maths], "held-out")
    refuse([*plain, *(replace(r, kind="chat") for r in maths)], "tuning")
    forms = [replace(r, id=f"f{r.id}", fields={"response_format": {"type": "json_object"}}) for r in plain]
    with pytest.raises(WorkloadError, match="label at least 30"):
        refuse([*plain, *forms], "tuning")  # a form is no label, and nobody chose it at random
    with pytest.raises(WorkloadError, match="as tokens"):
        refuse([replace(maths[0], prompt="", prompt_tokens=(1, 2))], "tuning")


def test_what_a_form_scores_corrects_no_free_text(tmp_path: Path) -> None:
    forms = [
        Request(f"f{n}", f"f{n}", 8, prompt="?", fields={"response_format": {"type": "json_object"}}) for n in range(50)
    ]
    free = [Request(f"t{n}", f"t{n}", 8, prompt="?", **LABEL if n < 10 else {}) for n in range(50)]
    assert labelled_shares([*forms, *free]) == {"": 0.2} and most_of(forms) == 1.0


def test_judgements_are_asked_once_and_kept(scripted_endpoint: Endpoint, tmp_path: Path) -> None:
    request = Request("a", "a", 8, prompt="Two and two?")
    pairs = [
        (request, Outcome("a", "small", "four", "stop"), Outcome("a", "large", "4", "stop")),
        (replace(request, id="b"), Outcome("b", "small", "Four.", "stop"), Outcome("b", "large", "four", "stop")),
    ]
    judgements = Judgements(tmp_path / "j.jsonl")
    ask_judge(judgements, "small", scripted_endpoint, pairs, concurrency=2)
    again = Judgements(tmp_path / "j.jsonl", resume=True)
    found = again.of("small", [request, pairs[1][0]])
    assert 0 <= found[0] <= 1 and found[1] == 1.0, "the same words are as good"
    again.add(Judgement("a", "small", 0.25, answers_hash(pairs[0])))
    ask_judge(again, "small", scripted_endpoint, pairs, concurrency=2)
    assert again.of("small", [request])[0] == 0.25
    other = (request, replace(pairs[0][1], text="five"), pairs[0][2])
    assert again.missing("small", [other]) == [other], "it was a judgement of another answer"
    (tmp_path / "other.jsonl").write_text("no json\n")
    with pytest.raises(StorageError, match="no judgements"):
        Judgements(tmp_path / "other.jsonl", resume=True)
