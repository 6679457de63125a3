"""What this machine can do: bytes/s read from memory and operations/s by number type, measured once and kept.

`python -m pennyweight.plan.machine` prints it as JSON: the measuring runs in a process of its own, because torch takes
seconds to import and keeps its threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pennyweight import codec
from pennyweight.busy import BUSY_CORES, measure_other_load
from pennyweight.errors import StorageError
from pennyweight.hardware import Hardware, detect
from pennyweight.paths import cache_directory

READ_BYTES = 512 << 20  # far beyond any cache
SIDE = 1024  # of the square matrices
REPEATS = 5
REMEASURE_AFTER = 7 * 24 * 3600  # seconds


def measured_hardware(*, fresh: bool = False) -> Hardware:
    """This machine with its rates, from the cache where it was measured there within a week. Rates that were measured
    while others were busy are marked, and measured again as soon as the machine is quieter."""
    here, file = detect(), cache_directory() / "machine.json"
    busy = measure_other_load()
    known = None if fresh else _known(file)
    same = known is not None and (known.cpu, known.cores, known.memory_bytes) == (
        here.cpu,
        here.cores,
        here.memory_bytes,
    )
    if known is not None and same and known.busy_cores <= max(BUSY_CORES, busy.cores):
        return known
    command = [sys.executable, "-m", "pennyweight.plan.machine"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rates = json.loads(output)
    found = replace(
        here,
        memory_bandwidth=rates["memory_bandwidth"],
        arithmetic_rate=rates["arithmetic_rate"],
        busy_cores=round(busy.cores, 2) if busy.matters else 0.0,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(codec.plain(found), indent=2))
    return found


def _known(file: Path) -> Hardware | None:
    try:
        if time.time() - file.stat().st_mtime > REMEASURE_AFTER:
            return None
        return codec.value_of(Hardware, json.loads(file.read_text()), str(file))
    except (OSError, ValueError, StorageError):
        return None


def _measure() -> dict[str, object]:
    import torch

    torch.set_num_threads(detect().cores)
    big = torch.ones(READ_BYTES // 4)
    rates = {"f32": 2 * SIDE**3 / _best(_product(torch.float32))}
    for name, work in (("bf16", _product(torch.bfloat16)), ("int8", _integer_product())):
        try:
            rates[name] = 2 * SIDE**3 / _best(work)
        except RuntimeError:
            continue  # this build or machine has no such product
    return {"memory_bandwidth": READ_BYTES / _best(lambda: big.sum()), "arithmetic_rate": rates}


def _product(dtype: object) -> Callable[[], object]:
    import torch

    a = torch.randn(SIDE, SIDE).to(dtype)  # type: ignore[call-overload]
    b = torch.randn(SIDE, SIDE).to(dtype)  # type: ignore[call-overload]
    return lambda: a @ b


def _integer_product() -> Callable[[], object]:
    import torch

    a = torch.randint(-100, 100, (SIDE, SIDE), dtype=torch.int8)
    return lambda: torch._int_mm(a, a)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs: the machine undisturbed."""
    work()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    print(json.dumps(_measure()))
