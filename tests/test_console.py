"""Progress as a person reads it."""

from __future__ import annotations

import time

import pytest
from rich.console import Console

from pennyweight import console
from pennyweight.console import Live, duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min"), (95, "1 min 35 s"), (1800, "30 min"), (3600, "1 h"), (5400, "1 h 30 min")],
)
def test_durations_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_no_time_left_from_the_start_up_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live(Console(file=None, force_terminal=False))
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    live._began = now
    assert live._said(0, 10, "") == "0/10"
    now += 60  # start-up
    assert live._said(1, 10, "") == "1/10, 1 min so far"
    now += 2
    assert live._said(2, 10, "") == "2/10, 1 min 2 s so far"
    now += 2
    assert live._said(3, 10, "loss 2.1") == "3/10, loss 2.1, about 14 s left"


def test_without_a_terminal_a_quiet_stage_still_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.2)
    with Live(Console(force_terminal=False)) as live:
        live.stage("Building")
        time.sleep(1.2)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Building" and said[1].startswith("  Building: ") and "None" not in "".join(said)
