"""Engines that need a separate environment: installing one under the cache directory, and removing it.

<cache>/engines/<name>/
    install.log       what the commands said
    done.json         finished commands: an interrupted installation continues after them
    installed.json    written last
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.checkpoint import locked
from pennyweight.errors import EngineError, StorageError, UsageError
from pennyweight.model import canonical_hash
from pennyweight.paths import engines_directory

PYTHON = sys.executable
LOG_LINES = 6
COUNTED = re.compile(r"^\[(\d+)/(\d+)\]")  # as ninja counts
CAUSES = {
    "No space left on device": "the disk is full",
    "Killed signal terminated program": "the compiler ran out of memory",
    "No matching distribution": "the package index cannot be reached, or has no such version for this machine",
    "Could not find a version": "the package index cannot be reached, or has no such version for this machine",
    "Connection": "the network or the package index cannot be reached",
    "CMAKE_CXX_COMPILER": "no working C++ compiler was found: install g++ or clang",
    "unrecognized command-line option": "the compiler is too old: use GCC 11 or newer",
}
Stage = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Command:
    title: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """How an engine is installed: `commands(home)` are run one after the other. `needs` are programs on the PATH."""

    version: str
    commands: Callable[[Path], list[Command]]
    needs: tuple[str, ...] = ()
    minutes: int = 5
    disk_bytes: int = 10**9


def home(name: str) -> Path:
    """Under `PENNYWEIGHT_ENGINES`, else in the cache."""
    return engines_directory() / name


def installed(name: str) -> Mapping[str, Any] | None:
    """What was installed and when, or None."""
    file = home(name) / "installed.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found


def made(name: str, file: str) -> Path | None:
    """A file of a complete installation, or None."""
    found = home(name) / file
    return found if installed(name) and found.exists() else None


def fresh_venv(place: Path) -> list[Command]:
    return [Command("making an environment", (PYTHON, "-m", "venv", "--clear", str(place / "venv")))]


def install(name: str, recipe: Recipe, stage: Stage, progress: Progress) -> Path:
    """Run what is left of the recipe; returns the home. What is installed already is left alone."""
    place = home(name)
    place.mkdir(parents=True, exist_ok=True)
    with locked(place / "lock"):
        if (installed(name) or {}).get("version") == recipe.version:
            return place
        _refuse_early(name, recipe, place)
        (place / "installed.json").unlink(missing_ok=True)  # an older version is no longer whole
        commands = recipe.commands(place)
        done = _done(place)
        for number, command in enumerate(commands):
            key = canonical_hash([recipe.version, *command.arguments])
            if key in done:
                continue
            stage(f"{name}, {number + 1} of {len(commands)}: {command.title}")
            _run(name, command, place, progress)
            done.append(key)
            (place / "done.json").write_text(json.dumps(done))
        facts = {"version": recipe.version, "installed": time.strftime("%Y-%m-%d")}
        (place / "installed.json").write_text(json.dumps(facts))
        (place / "done.json").unlink(missing_ok=True)
    return place


def remove(name: str) -> int:
    """Delete an installation, complete or not; returns the bytes freed."""
    place = home(name)
    if not place.exists():
        raise UsageError(f"{name} is not installed under {place.parent}: there is nothing to remove.")
    size = sum(file.lstat().st_size for file in place.rglob("*") if not file.is_dir())
    shutil.rmtree(place)
    return size


def _refuse_early(name: str, recipe: Recipe, place: Path) -> None:
    absent = [program for program in recipe.needs if shutil.which(program) is None]
    if absent:
        raise EngineError(f"{name} cannot be built without {', '.join(absent)}: install a C++ compiler first.")
    free = shutil.disk_usage(place).free
    if free < recipe.disk_bytes:
        raise StorageError(
            f"Installing {name} takes {recipe.disk_bytes / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB free: make "
            "room, or set PENNYWEIGHT_CACHE to another disk."
        )


def _done(place: Path) -> list[str]:
    try:
        found: list[str] = json.loads((place / "done.json").read_text())
    except (FileNotFoundError, ValueError):
        return []
    return found


def _run(name: str, command: Command, place: Path, progress: Progress) -> None:
    """One command, its output into the log; "[3/40]" at the beginning of a line is progress."""
    log = place / "install.log"
    path = f"{place / 'venv' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    last: list[str] = []
    with log.open("a") as file:
        print(f"$ {' '.join(command.arguments)}", file=file, flush=True)
        try:
            process = subprocess.Popen(
                command.arguments,
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "PATH": path},
            )
        except OSError as error:
            raise EngineError(f"{name}: {command.arguments[0]} cannot be run ({error.strerror}).") from None
        with process:
            try:
                for line in process.stdout or ():
                    file.write(line)
                    last = [*last[-40:], line.strip()]
                    if matched := COUNTED.match(line):
                        progress(int(matched[1]), int(matched[2]))
            except BaseException:
                process.terminate()
                raise
    if process.returncode:
        raise EngineError(_failure(name, command, process.returncode, [line for line in last if line], log))


def _failure(name: str, command: Command, code: int, last: list[str], log: Path) -> str:
    text = "\n".join(last)
    cause = next((why for sign, why in CAUSES.items() if sign in text), None)
    likely = f" Likely cause: {cause}." if cause else ""
    return (
        f"{name}: {command.title} failed with exit code {code}.{likely} The last lines of {log}: "
        f"{' | '.join(last[-LOG_LINES:])}. Give the same command again to go on from there."
    )
