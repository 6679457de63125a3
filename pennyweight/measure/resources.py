"""What an engine's process tree used while it was measured. What cannot be read is absent, never zero."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from pennyweight.hardware import available_cores
from pennyweight.serve.process import ServerProcess

SAMPLE_SECONDS = 0.2
BUSY_CORES = 0.3  # that others use: from here on it is said
POWERCAP = Path("/sys/class/powercap")


@dataclass
class Usage:
    """Filled when the watch ends. Peak memory is resident bytes, sampled; joules are of the whole package."""

    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    joules: float | None = None
    seconds: float = 0.0


@contextmanager
def watch(process: ServerProcess | None) -> Iterator[Usage]:
    """Sample the engine while the context lasts. Without a process of ours nothing is known."""
    usage = Usage()
    started = time.perf_counter()
    energy_before = _energy()
    if process is None:
        yield usage
        usage.seconds = time.perf_counter() - started
        return
    done = threading.Event()
    _, cpu_before = process.usage()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            process.usage()

    sampler = threading.Thread(target=sample, name="resources", daemon=True)
    sampler.start()
    try:
        yield usage
    finally:
        done.set()
        sampler.join()
        _, cpu_after = process.usage()
        usage.seconds = time.perf_counter() - started
        usage.peak_memory_bytes = process.peak_bytes or None
        usage.cpu_seconds = cpu_after - cpu_before if cpu_after > cpu_before else None
        usage.joules = _joules_since(energy_before)


def _energy() -> dict[Path, int]:
    """Microjoules of each package counter that may be read (RAPL, through powercap)."""
    counters = {}
    for counter in POWERCAP.glob("intel-rapl:[0-9]*/energy_uj"):
        if counter.parent.name.count(":") == 1:  # packages only: sub-domains are counted in them
            try:
                counters[counter] = int(counter.read_text())
            except OSError:
                continue
    return counters


def _joules_since(before: dict[Path, int]) -> float | None:
    after = _energy()
    if not before or before.keys() != after.keys():
        return None
    total = 0
    for counter, start in before.items():
        spent = after[counter] - start
        if spent < 0:  # the counter wrapped around
            spent += int((counter.parent / "max_energy_range_uj").read_text())
        total += spent
    return total / 1e6


@dataclass(frozen=True)
class Busy:
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


def look_for_others(seconds: float = 0.5) -> Busy:
    """Watch the machine for a moment, without this process and its children."""
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    before = _cpu_seconds(own)
    started = time.perf_counter()
    time.sleep(seconds)
    passed = time.perf_counter() - started
    shares = {key: (used - before[key]) / passed for key, used in _cpu_seconds(own).items() if key in before}
    if not shares:
        return Busy(0.0, "")
    (_, name), most = max(shares.items(), key=lambda item: item[1])
    return Busy(sum(shares.values()), name if most > BUSY_CORES / 2 else "")


def _cpu_seconds(own: set[int]) -> dict[tuple[int, str], float]:
    """By process id and name."""
    found = {}
    for process in psutil.process_iter(("pid", "name", "cpu_times")):
        times = process.info["cpu_times"]
        if process.info["pid"] not in own and times is not None:
            found[process.info["pid"], process.info["name"] or ""] = times.user + times.system
    return found
