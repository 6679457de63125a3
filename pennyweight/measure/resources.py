"""What an engine's process tree used while it was measured. What cannot be read is absent, never zero."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pennyweight.serve.process import ServerProcess

SAMPLE_SECONDS = 0.2
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
    """Sample the engine while the context lasts. Without a process only the duration is known."""
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
