"""Measurement: named numbers that survive being written, joined and asked for."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pennyweight import codec
from pennyweight.measurement import Measurement, Quantity, collect

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

numbers = st.floats(allow_nan=False)
quantities = st.builds(
    Quantity,
    st.text("abc_", min_size=1, max_size=4),
    numbers,
    st.sampled_from(["ms", "tokens/s"]),
    st.sampled_from(["lower", "higher"]),
    st.lists(numbers, max_size=3).map(tuple),
    st.none() | st.tuples(numbers, numbers),
    st.booleans(),
)


@STEADY
@given(st.lists(quantities, max_size=4), st.dictionaries(st.text(max_size=3), st.integers(), max_size=3))
def test_a_measurement_survives_being_written_as_json(found: list[Quantity], conditions: dict[str, int]) -> None:
    measurement = collect("subject", found, conditions)
    assert codec.value_of(Measurement, json.loads(json.dumps(codec.plain(measurement))), "here") == measurement


def test_a_quantity_is_found_by_its_name() -> None:
    measurement = collect("x", [Quantity("a", 1.5, "ms", "lower")])
    assert measurement["a"] == measurement.get("a") == 1.5
    assert "a" in measurement
    assert "b" not in measurement
    assert measurement.get("b") is None
    with pytest.raises(KeyError):
        measurement["b"]


def test_joining_keeps_both_and_prefers_the_other() -> None:
    one = collect("x", [Quantity("a", 1, "ms", "lower"), Quantity("b", 2, "ms", "lower")], {"seed": 0, "half": "x"})
    other = collect("y", [Quantity("b", 3, "ms", "lower"), Quantity("c", 4, "ms", "lower")], {"seed": 1})
    joined = one.joined(other)
    assert {name: joined[name] for name in joined.quantities} == {"a": 1, "b": 3, "c": 4}
    assert joined.conditions == {"seed": 1, "half": "x"}
    assert joined.subject == "x"
    assert set(one.quantities) == {"a", "b"}


def test_a_predicted_number_says_so_when_it_is_written() -> None:
    assert codec.plain(Quantity("a", 1, "ms", "lower", predicted=True))["predicted"] is True
    assert "predicted" not in codec.plain(Quantity("a", 1, "ms", "lower"))
