"""Machine types: every shipped file is whole, names resolve, and what a user gives is checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pennyweight.errors import UsageError
from pennyweight.plan.catalogue import SHIPPED, catalogue, find, plain_name, this_machine
from tests.plan.planned import BIG


def test_each_number_has_a_source_a_date_and_a_plausible_size() -> None:
    found = catalogue()
    assert len(found) == len(list(SHIPPED.glob("*.json"))) > 30
    for one in found.values():
        facts = [one.memory_bytes, one.memory_bandwidth, *one.arithmetic_rate.values()]
        facts += [each for each in (one.link_bandwidth, one.network_bandwidth, one.usd_per_hour) if each is not None]
        assert all(each.value > 0 and each.source and re.match(r"20\d\d", each.date) for each in facts), one.name
        assert 5e10 < one.memory_bandwidth.value < 3e13 and one.devices >= 1
    names = [plain_name(name) for one in found.values() for name in (one.name, *one.aliases)]
    assert len(set(names)) == len(set(names) & set(names)) and {"h100sxm", "mi300x", "tpuv5e8"} <= set(names)


def test_a_machine_is_found_by_its_aliases_and_a_wrong_name_is_answered_with_near_ones() -> None:
    machines = catalogue().values()
    assert find("H100-SXM", machines).devices == 8
    with pytest.raises(UsageError, match="H100"):
        find("h100_smx", machines)


def test_a_users_file_adds_machines_and_replaces_prices(tmp_path: Path) -> None:
    from pennyweight import codec

    own = codec.plain(BIG)
    file = tmp_path / "own.json"
    file.write_text(json.dumps([own, {"name": "h100_sxm", "usd_per_hour": 12.5}]))
    found = catalogue(file)
    assert found["Big"] == BIG
    price = find("h100_sxm", found.values()).usd_per_hour
    assert price is not None and price.value == 12.5 and str(file) in price.source


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"name": "h100_sxm", "usd_per_hour": 0}], "price of 0"),
        ([{"name": "h100_sxm", "usd_per_hour": "cheap"}], "give a number"),
        ([{"name": "no such card", "usd_per_hour": 1}], "No machine type"),
        ([{"usd_per_hour": 1}], "no name"),
        ([{"name": "Own", "devices": 8}], "Own"),
        (["h100"], "list of machine types"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, rows: object, said: str) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(UsageError, match=said):
        catalogue(file)
    file.write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        catalogue(file)


def test_this_machine_is_one_too() -> None:
    from pennyweight.hardware import Hardware

    found = this_machine(Hardware("a CPU", 2, 24 << 30, memory_bandwidth=2e10, arithmetic_rate={"f32": 1e11}))
    assert found.kind == "cpu" and found.arithmetic_rate["f32"].basis == "measured"
