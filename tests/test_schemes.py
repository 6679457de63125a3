"""The one table of schemes."""

from __future__ import annotations

from pennyweight import engines
from pennyweight.schemes import TABLE, scheme


def test_what_is_finer_is_in_the_table_and_has_more_bits() -> None:
    for entry in TABLE.values():
        for finer in entry.finer:
            assert TABLE[finer].bits > entry.bits and TABLE[finer].format == entry.format


def test_every_scheme_that_an_engine_serves_is_in_the_table() -> None:
    for name in engines.ENGINES:
        if name != "remote":
            assert set(engines.engine_class(name).schemes) <= set(TABLE), name


def test_an_unknown_one_counts_as_16_bits() -> None:
    assert scheme("whatever").bits == 16
