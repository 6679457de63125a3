"""What a workload can decide, said before anything is spent."""

from __future__ import annotations

import pytest

from pennyweight.budget import Budget
from pennyweight.measure.proof.power import decidable, labelled_needed, outlook, undecidable
from pennyweight.workload import Request


def held_out(count: int, *, copies: int = 1, labelled: bool = False) -> list[Request]:
    more = {"reference": "1", "scorer": "exact"} if labelled else {}
    return [Request(f"r{n}", f"s{n}", 8, prompt=f"p{n // copies}", **more) for n in range(count)]  # type: ignore[arg-type]


def test_the_default_budget_needs_some_dozens_of_requests() -> None:
    assert not undecidable(Budget(), held_out(61)) and not undecidable(Budget(), held_out(36))
    said = undecidable(Budget(), held_out(20))
    assert "20 independent requests are held out" in said and "--max-tail-share 0.1 takes 36" in said
    assert "bring enough that 36 are held out" in said
    assert undecidable(Budget(), held_out(35))


@pytest.mark.parametrize("count", [5, 12, 20, 30])
def test_what_is_proposed_is_possible(count: int) -> None:
    """All mends together are accepted by the budget, and leave nothing undecided but what no value helps."""
    options = [one for one in decidable(Budget(), held_out(count)) if not one.possible]
    values = {one.option: float(one.mend.split(" ")[1]) for one in options if one.mend}
    named = {option.removeprefix("--").replace("-", "_"): value for option, value in values.items()}
    stuck = {one.option for one in options if not one.mend}
    without_nats = {} if "--max-added-nats" not in stuck else {"max_added_nats": None}
    left = [one.option for one in decidable(Budget(**named, **without_nats), held_out(count)) if not one.possible]  # type: ignore[arg-type]
    assert not set(left) - stuck
    assert values and stuck <= {"--max-added-nats", "--max-ending-shift", "--max-length-shift"}


def test_no_margin_in_nats_is_proposed_since_none_helps() -> None:
    said = undecidable(Budget(), held_out(12))
    assert "--max-added-nats 0 (no gate on nats" in said and "allow --max-ending-shift" in said
    assert undecidable(Budget(max_added_nats=19.0), held_out(12))


def test_copies_of_a_prompt_count_once() -> None:
    assert undecidable(Budget(), held_out(64, copies=8))


def test_one_percent_of_a_task_score_takes_hundreds_of_labels() -> None:
    sentence = undecidable(Budget(max_degradation=0.01), held_out(142, labelled=True))
    assert "381" in sentence and "142" in sentence
    one = next(
        o
        for o in decidable(Budget(max_degradation=0.05), held_out(142, labelled=True))
        if o.option == "--max-degradation"
    )
    assert one.possible


@pytest.mark.parametrize(("margin", "flips", "low", "high"), [(0.01, 0.02, 1600, 1900), (0.01, 0.10, 8000, 9000)])
def test_labels_needed_grow_with_the_flips(margin: float, flips: float, low: int, high: int) -> None:
    assert low < labelled_needed(margin, flips) < high


def test_the_outlook_says_what_usual_losses_can_be_proven() -> None:
    (nats,) = outlook(Budget(), held_out(61))
    assert "61 held-out units prove losses up to 0.01" in nats
    (few,) = outlook(Budget(), held_out(18))
    assert "only for a model that loses next to nothing" in few
    _, task = outlook(Budget(max_degradation=0.01), held_out(100, labelled=True))
    assert "there are 100" in task and "takes about 2," in task
