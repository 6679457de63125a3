"""The tree that errors.py draws is the tree that Python sees."""

from __future__ import annotations

import inspect
import re

import pytest

from pennyweight import errors

DRAWN = re.compile(r"^    (?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)(?:\s+(?P<rest>\S.*))?$")


def drawing() -> dict[str, tuple[str | None, int | None]]:
    """Class name -> (parent, exit code where one is written)."""
    found: dict[str, tuple[str | None, int | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = DRAWN.match(line)
        if not match:
            continue
        depth = len(match["branch"]) // 4
        above = [*above[:depth], match["name"]]
        code = re.match(r"(?:exit code )?(\d+)\b", match["rest"] or "")
        found[match["name"]] = (above[-2] if depth else None, int(code[1]) if code else None)
    return found


def classes() -> dict[str, type[errors.PennyweightError]]:
    members = inspect.getmembers(errors, inspect.isclass)
    return {name: cls for name, cls in members if issubclass(cls, errors.PennyweightError)}


def test_every_class_is_drawn_and_every_drawn_one_exists() -> None:
    assert set(drawing()) == set(classes())


def test_each_class_hangs_where_it_is_drawn() -> None:
    parents = {name: cls.__base__.__name__ for name, cls in classes().items() if cls is not errors.PennyweightError}
    assert {name: parent for name, (parent, _) in drawing().items() if parent} == parents


def test_the_exit_codes_are_as_drawn_and_otherwise_those_of_the_parent() -> None:
    drawn = drawing()
    for name, cls in classes().items():
        parent, code = drawn[name]
        expected = code if code is not None else classes()[parent or ""].exit_code
        assert cls.exit_code == expected, name


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (errors.PennyweightError, 1),
        (errors.UsageError, 2),
        (errors.Infeasible, 3),
        (errors.GateFailed, 4),
        (errors.EngineMissing, 1),
        (errors.MeasurementVoid, 1),
    ],
)
def test_the_documented_exit_codes_hold(cls: type[errors.PennyweightError], code: int) -> None:
    assert cls("x").exit_code == code
