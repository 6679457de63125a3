"""A path is absolute from where it enters on; an empty variable is no directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight import checkpoint, paths
from pennyweight.model import Lineage, Model


def test_a_relative_path_is_made_absolute_and_links_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blob").mkdir()
    (tmp_path / "named").symlink_to("blob")
    assert paths.absolute("../x/named") == tmp_path.parent / "x" / "named"
    assert paths.absolute("./named") == tmp_path / "named"
    assert paths.absolute("~") == Path.home()


def test_a_model_does_not_depend_on_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Model(Path("mödel dir"), "gguf", "Q8_0", Lineage("m", {})).path == tmp_path / "mödel dir"


@pytest.mark.parametrize("variable", ["PENNYWEIGHT_CACHE", "XDG_CACHE_HOME"])
def test_an_empty_variable_is_not_the_current_directory(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PENNYWEIGHT_CACHE", "XDG_CACHE_HOME", "PENNYWEIGHT_ENGINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "")
    assert paths.cache_directory() == Path.home() / ".cache" / "pennyweight"
    assert paths.engines_directory() == Path.home() / ".cache" / "pennyweight" / "engines"


def test_the_cache_is_absolute_whatever_the_variables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENNYWEIGHT_CACHE", "my cache")
    assert paths.cache_directory() == tmp_path / "my cache"
    monkeypatch.delenv("PENNYWEIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert paths.cache_directory() == Path.home() / ".cache" / "pennyweight"


def test_an_empty_name_is_no_model() -> None:
    with pytest.raises(Exception, match="empty"):
        checkpoint.open_model(" ")
