"""Others on this machine are seen, with a name."""

from __future__ import annotations

import time

import psutil
import pytest

from pennyweight import busy
from pennyweight.busy import OtherLoad, measure_other_load


def test_what_others_use_is_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([{(1, "idle"): 5.0, (2, "python"): 10.0}, {(1, "idle"): 5.0, (2, "python"): 10.9, (3, "new"): 9.0}])
    clock = iter([100.0, 101.0])
    monkeypatch.setattr(busy, "_cpu_seconds", lambda own: next(looks))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    load = measure_other_load(0.0)
    assert load.cores == pytest.approx(0.9) and load.busiest == "python" and load.matters


def test_this_process_is_not_one_of_the_others() -> None:
    own = psutil.Process().pid
    assert own not in {pid for pid, _ in busy._cpu_seconds({own})}


def test_a_busy_machine_is_said_in_a_sentence() -> None:
    assert not OtherLoad(0.1, "").matters
    said = str(OtherLoad(1.5, "python"))
    assert "1.5 of its" in said and "by python" in said
