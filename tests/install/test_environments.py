"""Environments of engines: made once, gone on with after a failure, removed; refused before anything is spent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pennyweight.errors import EngineError, StorageError, UsageError
from pennyweight.install import environments
from pennyweight.install.environments import Command, Recipe

FIRST = "open('first', 'a').write('x'); print('[1/2] half'); print('[2/2] whole')"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENNYWEIGHT_ENGINES", str(tmp_path / "engines"))
    return tmp_path


def recipe(second: str, **more: object) -> Recipe:
    def commands(home: Path) -> list[Command]:
        return [Command("first", (sys.executable, "-c", FIRST)), Command("second", (sys.executable, "-c", second))]

    return Recipe("1.0", commands, **more)  # type: ignore[arg-type]


def install(made: Recipe) -> tuple[list[str], list[tuple[int, int]]]:
    stages: list[str] = []
    counts: list[tuple[int, int]] = []
    environments.install("thing", made, stages.append, lambda done, total: counts.append((done, total)))
    return stages, counts


def test_it_runs_every_command_once_and_counts(cache: Path) -> None:
    stages, counts = install(recipe("pass"))
    assert stages == ["thing, 1 of 2: first", "thing, 2 of 2: second"]
    assert counts == [(1, 2), (2, 2)]
    found = environments.installed("thing")
    assert found is not None and found["version"] == "1.0"
    assert install(recipe("pass")) == ([], [])
    assert (cache / "engines" / "thing" / "first").read_text() == "x"


def test_after_a_failure_it_goes_on_where_it_was(cache: Path) -> None:
    broken = recipe("import sys; print('c++: fatal error: Killed signal terminated program cc1plus'); sys.exit(3)")
    with pytest.raises(EngineError, match=r"second failed with exit code 3.*out of memory.*cc1plus.*again"):
        install(broken)
    assert environments.installed("thing") is None
    stages, _ = install(recipe("pass"))
    assert stages == ["thing, 2 of 2: second"]
    assert (cache / "engines" / "thing" / "first").read_text() == "x"


def test_a_failure_is_in_the_log_with_its_command(cache: Path) -> None:
    with pytest.raises(EngineError):
        install(recipe("raise SystemExit('what went wrong')"))
    log = (cache / "engines" / "thing" / "install.log").read_text()
    assert "what went wrong" in log and "$ " in log


def test_a_new_version_is_installed_again() -> None:
    install(recipe("pass"))
    newer = Recipe("2.0", recipe("pass").commands)
    assert len(install(newer)[0]) == 2


def test_what_cannot_work_is_refused_before_anything_runs(cache: Path) -> None:
    with pytest.raises(EngineError, match="no-such-compiler"):
        install(recipe("pass", needs=("no-such-compiler",)))
    with pytest.raises(StorageError, match="make room"):
        install(recipe("pass", disk_bytes=10**18))
    assert not (cache / "engines" / "thing" / "first").exists()


def test_a_program_that_is_not_there_is_a_sentence() -> None:
    missing = Recipe("1.0", lambda home: [Command("only", ("/no/such/program",))])
    with pytest.raises(EngineError, match="cannot be run"):
        install(missing)


def test_remove_frees_what_it_took(cache: Path) -> None:
    install(recipe("pass"))
    assert environments.remove("thing") > 0
    assert not (cache / "engines" / "thing").exists()
    with pytest.raises(UsageError, match="nothing to remove"):
        environments.remove("thing")
