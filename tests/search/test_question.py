"""A question that cannot be answered is refused when it is made, from the library as from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pennyweight as pw
from pennyweight import checkpoint, traces
from pennyweight.errors import UsageError
from pennyweight.search import Question
from pennyweight.search.question import refuse_early


def question(directory: Path, **more: Any) -> Question:
    made: dict[str, Any] = {"budget": pw.Budget(max_added_nats=0.02), **more}
    return Question(checkpoint.open_model(str(directory)), traces.load("tasks"), **made)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"streams": 0}, "streams=0"),
        ({"streams": True}, "streams=True"),
        ({"rounds": 0}, "rounds=0"),
        ({"iterations": -1}, "iterations=-1"),
        ({"seed": "x"}, "seed='x'"),
        ({"engines": "openvino"}, "engines='openvino' is one word"),
        ({"techniques": "prune:10%"}, "techniques='prune:10%'"),
        ({"budget": "1%"}, "budget='1%' is no Budget"),
    ],
)
def test_what_makes_no_sense_is_refused(more: dict[str, Any], says: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=says):
        question(tiny_checkpoint, **more)


def test_an_argument_that_the_library_lacks_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no argument nonsense"):
        pw.optimize(tiny_checkpoint, "tasks", output=tmp_path / "out", nonsense=3)
    assert not (tmp_path / "out").exists()


def test_impossible_memory_is_refused_without_measured_rates(tiny_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="below the smallest prediction"):
        refuse_early(question(tiny_checkpoint, budget=pw.Budget(max_added_nats=1.0, max_memory_bytes=1 << 20)))
