"""Two answers agree in what they come to."""

from __future__ import annotations

import pytest

from pennyweight.mixing.agreement import agree, calls_in


@pytest.mark.parametrize(
    ("first", "second", "compared", "same"),
    [
        ("The answer is 1,234.", "1234", "number", True),
        ("It was 5 of 6", "5", "number", False),
        ("No idea", "no idea.", "number", True),
        ("No idea", "7", "number", False),
        ("B", "(B) because", "choice", True),
        ("B", "C", "choice", False),
        ("yes!", "Yes, it does", "choice yes|no", True),
        ("yes", "no", "choice yes|no", False),
        ("perhaps", "Perhaps.", "choice yes|no", True),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', "json", True),
        ("[]", "{}", "json", False),
        ("null", "", "json", False),
        ("no json", "no json", "json", True),
        ("Paris.", " paris", "text", True),
        ("Paris", "Rome", "text", False),
        ("", "", "text", True),
    ],
)
def test_agree(first: str, second: str, compared: str, same: bool) -> None:
    assert agree(first, second, compared) == agree(second, first, compared) == same


def test_tool_calls_are_part_of_what_is_said() -> None:
    calls = [{"function": {"name": "look", "arguments": '{"a": 1}'}}]
    assert (
        calls_in({"tool_calls": calls}) == 'look{"a": 1}'
        and calls_in({}) == ""
        and calls_in({"tool_calls": None}) == ""
    )
