"""Resources: what the engine used, and nothing where nothing can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight.measure import resources
from pennyweight.serve import Endpoint


def counter(root: Path, name: str, microjoules: int, limit: int = 10**9) -> Path:
    directory = root / name
    directory.mkdir()
    (directory / "energy_uj").write_text(f"{microjoules}\n")
    (directory / "max_energy_range_uj").write_text(f"{limit}\n")
    return directory / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resources, "POWERCAP", tmp_path)
    return tmp_path


def test_without_a_counter_there_are_no_joules(powercap: Path, scripted_endpoint: Endpoint) -> None:
    with resources.watch(scripted_endpoint.process) as usage:
        pass
    assert usage.joules is None


def test_joules_add_up_over_packages_and_leave_their_parts_out(powercap: Path, scripted_endpoint: Endpoint) -> None:
    one, two = counter(powercap, "intel-rapl:0", 1_000_000), counter(powercap, "intel-rapl:1", 0)
    part = counter(powercap, "intel-rapl:0:0", 0)
    with resources.watch(scripted_endpoint.process) as usage:
        one.write_text("3000000")
        two.write_text("500000")
        part.write_text("900000")
    assert usage.joules == pytest.approx(2.5)


def test_a_counter_may_wrap_around(powercap: Path, scripted_endpoint: Endpoint) -> None:
    energy = counter(powercap, "intel-rapl:0", 9_000_000, limit=10_000_000)
    with resources.watch(scripted_endpoint.process) as usage:
        energy.write_text("2000000")
    assert usage.joules == pytest.approx(3.0)


def test_a_counter_that_vanishes_gives_no_joules(powercap: Path, scripted_endpoint: Endpoint) -> None:
    energy = counter(powercap, "intel-rapl:0", 1)
    with resources.watch(scripted_endpoint.process) as usage:
        energy.unlink()
    assert usage.joules is None


def test_the_engines_memory_is_seen(scripted_endpoint: Endpoint) -> None:
    with resources.watch(scripted_endpoint.process) as usage:
        pass
    assert usage.peak_memory_bytes is not None and usage.peak_memory_bytes > 20 << 20
    assert usage.seconds > 0


def test_of_a_server_that_is_not_ours_nothing_is_known(powercap: Path) -> None:
    energy = counter(powercap, "intel-rapl:0", 1)
    with resources.watch(None) as usage:
        energy.write_text("99")
    assert (usage.peak_memory_bytes, usage.cpu_seconds, usage.joules) == (None, None, None)
    assert usage.seconds > 0
