"""The shape of a text: the same measures for every language, and never an error."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pennyweight.mixing.text_shape import MEASURES, text_shape


@given(st.text())
def test_every_text_has_finite_measures(text: str) -> None:
    found = text_shape(text)
    assert len(found) == len(MEASURES) and all(math.isfinite(value) for value in found)


def test_what_is_measured() -> None:
    shape = dict(zip(MEASURES, text_shape("Ann has 3 apples. She buys 1,200 more at 5%!\nHow many?"), strict=True))
    assert shape["numbers"] == 3 and shape["sentences"] == 3 and shape["questions"] == 1 and shape["lines"] == 1
    assert shape["largest number"] == math.log1p(1200)
    chinese = dict(zip(MEASURES, text_shape("小明有3个苹果。他又买了5个。一共有几个？"), strict=True))
    assert chinese["sentences"] == 3 and chinese["questions"] == 1 and chinese["numbers"] == 2


def test_numbers_with_several_points_are_read_up_to_the_first() -> None:
    assert text_shape("version 1.2.3")[2] == math.log1p(1)
    assert text_shape("1,2,3,4.")[2] == math.log1p(1234)


def test_endless_digits_stay_a_number() -> None:
    assert all(map(math.isfinite, text_shape("1," * 5000 + "2 and " + "9" * 5000)))
