"""What `pip install .` takes along: every file of the package that is no module."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pennyweight

ROOT = Path(pennyweight.__file__).parent


def test_every_data_file_is_packaged() -> None:
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    taken = {
        file
        for package, patterns in settings.items()
        for pattern in patterns
        for file in ROOT.parent.joinpath(*package.split(".")).glob(pattern)
    }
    found = {f for f in ROOT.rglob("*") if f.is_file() and "__pycache__" not in f.parts and f.suffix != ".py"}
    assert found <= taken, sorted(str(file) for file in found - taken)
