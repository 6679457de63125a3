"""What is known of a file is forgotten when the file changes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pennyweight.checks import remembered as files
from pennyweight.checks.remembered import SMALL, remembered


def counted(file: Path, found: list[int]) -> str:
    def find() -> str:
        found.append(1)
        return file.read_bytes()[:8].hex()

    return remembered(file, "start", find)


def test_a_large_file_is_read_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    file, found = tmp_path / "large", []
    file.write_bytes(b"a" * (SMALL + 1))
    time.sleep(0.01)
    assert counted(file, found) == counted(file, found) and len(found) == 1
    state = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"b")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a careless copy keeps it
    assert counted(file, found).startswith("62") and len(found) == 2


def test_a_small_file_and_one_that_was_just_written_are_read_each_time(tmp_path: Path) -> None:
    for size in (10, SMALL + 1):
        file, found = tmp_path / str(size), []
        file.write_bytes(b"a" * size)
        counted(file, found)
        counted(file, found)
        assert len(found) == 2
