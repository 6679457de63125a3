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
    assert undecidable(Budget(), held_out(61)) == []
    assert undecidable(Budget(), held_out(36)) == [] and undecidable(Budget(), held_out(35))
    (sentence,) = [s for s in undecidable(Budget(), held_out(20)) if "--max-tail-share" in s]
    assert "--max-tail-share 0.1 takes at least 36" in sentence and "there are 20" in sentence


def test_what_is_proposed_is_possible() -> None:
    options = {"--max-tail-share": "max_tail_share", "--max-departures": "max_departures"}
    options |= {"--max-ending-shift": "max_ending_shift", "--max-added-nats": "max_added_nats"}
    proposed = {}
    for one in decidable(Budget(), held_out(20)):
        if not one.possible and one.option in options:
            proposed[options[one.option]] = float(one.sentence().rsplit(" ", 1)[1].rstrip("."))
    assert "max_tail_share" in proposed
    limits = {name: bound for name, bound in proposed.items() if name != "max_added_nats"}
    left = undecidable(Budget(**limits), held_out(20))
    assert not [sentence for sentence in left if sentence.split(" ")[0] in ("--max-tail-share", "--max-departures")]


def test_copies_of_a_prompt_count_once() -> None:
    assert undecidable(Budget(), held_out(64, copies=8))


def test_one_percent_of_a_task_score_takes_hundreds_of_labels() -> None:
    (sentence,) = undecidable(Budget(max_degradation=0.01), held_out(142, labelled=True))
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
