"""Hardware: a container's limits count, not the host's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pennyweight import codec, hardware
from pennyweight.hardware import Hardware, available_cores, available_memory, detect

X86 = "processor : 0\nmodel name : Some CPU @ 2 GHz: fast\nflags : fpu avx2 avx512f amx_int8 sse\n\nprocessor : 1\n"
ARM = "processor : 0\nFeatures : fp asimd asimddp i8mm\n"


def pretend(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int = 8) -> None:
    monkeypatch.setattr(hardware, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("", 8), ("200000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_cores_are_those_that_the_quota_leaves(quota: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"/sys/fs/cgroup/cpu.max": quota + "\n"})
    assert available_cores() == expected


def test_memory_is_the_lesser_of_the_machine_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"/sys/fs/cgroup/memory.max": "max\n"})
    machine = available_memory()
    assert machine > 1 << 28
    pretend(monkeypatch, {"/sys/fs/cgroup/memory.max": f"{1 << 20}\n"})
    assert available_memory() == 1 << 20
    pretend(monkeypatch, {"/sys/fs/cgroup/memory.max": f"{machine * 2}\n"})
    assert available_memory() == machine


@pytest.mark.parametrize(
    ("cpuinfo", "flags"), [(X86, ("avx2", "avx512f", "amx_int8")), (ARM, ("asimd", "asimddp", "i8mm"))]
)
def test_the_flags_that_decide_kernels_are_found(
    cpuinfo: str, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, {"/proc/cpuinfo": cpuinfo})
    assert detect().flags == flags


def test_the_name_of_the_processor_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"/proc/cpuinfo": X86})
    assert detect().cpu == "Some CPU @ 2 GHz: fast"


def test_this_machine_is_described_and_nothing_is_timed() -> None:
    here = detect()
    assert 1 <= here.cores <= len(os.sched_getaffinity(0))
    assert here.cpu
    assert here.memory_bytes > 0
    assert not here.measured


def test_hardware_survives_being_written_as_json() -> None:
    machine = Hardware("cpu", 2, 1 << 30, ("avx2",), 3.4e10, {"f32": 1e11, "int8": 4e11}, ("H100",))
    assert codec.value_of(Hardware, json.loads(json.dumps(codec.plain(machine))), "here") == machine
    assert machine.measured


def test_free_memory_of_gpus_is_what_their_driver_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 80000\necho 40000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert hardware.detect().gpu_free_bytes == (80000 * 2**20, 40000 * 2**20)
    monkeypatch.setenv("PATH", "/nowhere")
    assert hardware.detect().gpu_free_bytes == ()
