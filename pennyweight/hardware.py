"""Hardware: what this machine is and what was measured of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Flags that decide which low-precision kernels exist.
INTERESTING_FLAGS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


@dataclass(frozen=True)
class Hardware:
    """`memory_bandwidth` is in bytes/s read by all cores; `arithmetic_rate` in operations/s by number type
    (a multiply and an add count as two). Both are empty until they are measured."""

    cpu: str
    cores: int
    memory_bytes: int
    flags: tuple[str, ...] = ()
    memory_bandwidth: float = 0.0
    arithmetic_rate: Mapping[str, float] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    gpu_free_bytes: tuple[int, ...] = ()
    numa_nodes: int = 1
    busy_cores: float = 0.0  # used by other processes during the measurement; if above 0, the rates are too low

    @property
    def measured(self) -> bool:
        return self.memory_bandwidth > 0


def detect() -> Hardware:
    """Read the machine's description: container limits count, not the host's; nothing is timed."""
    cpuinfo = _read("/proc/cpuinfo")
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    present = set(fields.get("flags", fields.get("Features", "")).split())
    return Hardware(
        cpu=fields.get("model name", platform.processor() or platform.machine()),
        cores=available_cores(),
        memory_bytes=available_memory(),
        flags=tuple(flag for flag in INTERESTING_FLAGS if flag in present),
        gpus=tuple(_gpu_name(p) for p in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))),
        gpu_free_bytes=_gpu_free_bytes(),
        numa_nodes=max(1, len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))),
    )


def available_cores() -> int:
    """Cores that this process may use: affinity mask and cgroup quota, at least one."""
    cores = len(os.sched_getaffinity(0))
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def available_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or the cgroup's limit if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def free_memory() -> int:
    """Bytes that could be taken now: what the kernel calls available, or what the cgroup's limit leaves."""
    fields = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    words = fields.get("MemAvailable", "").split()
    free = int(words[0]) * 1024 if words else available_memory()
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    return max(0, min(free, int(limit) - int(used))) if limit.isdigit() and used.isdigit() else free


def has_cuda() -> bool:
    """Is there a CUDA device with a driver? (A compiler for them can be there without one.)"""
    return Path("/proc/driver/nvidia/gpus").is_dir() and shutil.which("nvidia-smi") is not None


def _gpu_name(information: Path) -> str:
    for line in information.read_text().splitlines():
        if line.startswith("Model:"):
            return line.split(":", 1)[1].strip()
    return information.parent.name


def _gpu_free_bytes() -> tuple[int, ...]:
    """Free bytes of each CUDA device, as its driver reports them."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    return tuple(int(line) * 2**20 for line in output.split() if line.isdigit())


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@dataclass(frozen=True)
class Efficiency:
    """Shares of a machine's limits that an engine reaches, and the fixed time per layer and step.
    `arithmetic` is by number type: an engine whose integer kernels gain little over its float ones has a low share."""

    memory: float
    arithmetic: Mapping[str, float]
    layer_seconds: float


UNKNOWN_EFFICIENCY = Efficiency(0.5, {"f32": 0.5, "bf16": 0.25, "int8": 0.2}, layer_seconds=0.0003)
