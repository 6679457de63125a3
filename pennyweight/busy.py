"""Is the machine busy? Looked at before something is measured, since what others do makes figures slower and less
sure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from pennyweight.hardware import available_cores

BUSY_CORES = 0.3  # in use by others: from here on it is reported


@dataclass(frozen=True)
class OtherLoad:
    """What others do on this machine: cores that they keep busy, and who uses most of them."""

    cores: float
    busiest: str

    @property
    def matters(self) -> bool:
        return self.cores > BUSY_CORES

    def __str__(self) -> str:
        most = f", most of it by {self.busiest}" if self.busiest else ""
        return (
            f"This machine is busy: others use {self.cores:.1f} of its {available_cores()} cores{most}. What is "
            "measured now will be slower and less certain than it could be."
        )


def measure_other_load(seconds: float = 0.5) -> OtherLoad:
    """Watch the machine for a moment, without this process and its children."""
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    before = _cpu_seconds(own)
    started = time.perf_counter()
    time.sleep(seconds)
    passed = time.perf_counter() - started
    shares = {key: (used - before[key]) / passed for key, used in _cpu_seconds(own).items() if key in before}
    if not shares:
        return OtherLoad(0.0, "")
    (_, name), most = max(shares.items(), key=lambda item: item[1])
    return OtherLoad(sum(shares.values()), name if most > BUSY_CORES / 2 else "")


def warn_if_busy(say: Callable[[str], None]) -> None:
    """Say so, before something is measured, if others keep this machine busy."""
    load = measure_other_load()
    if load.matters:
        say(str(load))


def _cpu_seconds(own: set[int]) -> dict[tuple[int, str], float]:
    """By process id and name."""
    found = {}
    for process in psutil.process_iter(("pid", "name", "cpu_times")):
        times = process.info["cpu_times"]
        if process.info["pid"] not in own and times is not None:
            found[process.info["pid"], process.info["name"] or ""] = times.user + times.system
    return found
