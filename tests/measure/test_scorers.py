"""Scorers: right, wrong and at the edge."""

from __future__ import annotations

import pytest

from pennyweight.errors import WorkloadError
from pennyweight.measure.scorers import SCORERS, is_right
from pennyweight.workload import SCORERS as WORKLOAD_SCORERS
from pennyweight.workload import Request


def right(scorer: str, answer: str, reference: str, choices: tuple[str, ...] = ()) -> bool:
    return is_right(answer, Request("r", "s", 8, prompt="x", reference=reference, scorer=scorer, choices=choices))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Paris", True), ("  paris.\n", True), ("**Paris**", True), ("It is Paris", False), ("", False), ("Pari", False)],
)
def test_exact(answer: str, expected: bool) -> None:
    assert right("exact", answer, "Paris") is expected


@pytest.mark.parametrize(("answer", "expected"), [("It is PARIS, surely.", True), ("par is", False), ("", False)])
def test_contains(answer: str, expected: bool) -> None:
    assert right("contains", answer, "Paris") is expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The answer is 42.", "42", True),
        ("3 + 4 = 7", "7", True),
        ("7, because 3 + 4", "7", False),
        ("1,234.5", "1234.5", True),
        ("-3", "-3", True),
        ("3", "-3", False),
        (".5", "0.5", True),
        ("none", "5", False),
        ("", "5", False),
        ("42.00", "42", True),
        ("42.1", "42", False),
        ("1000001", "1000000", True),
        ("1000002", "1000000", False),
    ],
)
def test_numeric_takes_the_last_number(answer: str, reference: str, expected: bool) -> None:
    assert right("numeric", answer, reference) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", True),
        ("(B)", True),
        ("The answer is B.", True),
        ("C, not B", False),
        ("Because", False),
        ("b", False),
        ("", False),
    ],
)
def test_choice_takes_the_first_that_stands_alone(answer: str, expected: bool) -> None:
    assert right("choice", answer, "B") is expected


def test_the_article_is_no_choice() -> None:
    assert right("choice", "It is a matter of taste: C", "C")


@pytest.mark.parametrize(("answer", "expected"), [("Yes, it is", True), ("no. yes?", False), ("yesterday", False)])
def test_choices_may_be_words(answer: str, expected: bool) -> None:
    assert right("choice", answer, "yes", ("yes", "no")) is expected


@pytest.mark.parametrize(("answer", "expected"), [("id 20-31", True), ("id 2031", False)])
def test_regex_may_match_anywhere(answer: str, expected: bool) -> None:
    assert right("regex", answer, r"\d\d-\d\d") is expected


def test_every_scorer_that_a_workload_may_name_is_there() -> None:
    assert set(SCORERS) == set(WORKLOAD_SCORERS)


@pytest.mark.parametrize(("reference", "scorer"), [(None, "exact"), ("x", None)])
def test_an_unlabelled_request_is_not_scored(reference: str | None, scorer: str | None) -> None:
    with pytest.raises(WorkloadError, match="'r'"):
        is_right("x", Request("r", "s", 8, prompt="x", reference=reference, scorer=scorer))
