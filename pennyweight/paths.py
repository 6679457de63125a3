"""Where things are. A path that a user gives is made absolute once, where it enters: what works on it later may run in
another directory (a job process, an engine, a running gateway)."""

from __future__ import annotations

import os
from pathlib import Path


def absolute(place: str | Path) -> Path:
    """The path from the root on, `~` included; links stay links. A `~` of an unknown user stays as it is."""
    return Path(os.path.abspath(os.path.expanduser(place)))  # noqa: PTH100, PTH111  # pathlib raises on an unknown user


def cache_directory() -> Path:
    """`PENNYWEIGHT_CACHE`, else `pennyweight` in the user's cache directory. An empty variable counts as unset, and so
    does a relative `XDG_CACHE_HOME` (XDG Base Directory Specification 0.8)."""
    own = os.environ.get("PENNYWEIGHT_CACHE")
    if own:
        return absolute(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return absolute((base if Path(base).is_absolute() else "~/.cache") + "/pennyweight")


def engines_directory() -> Path:
    """Where engines with an environment of their own are: `PENNYWEIGHT_ENGINES`, else in the cache."""
    own = os.environ.get("PENNYWEIGHT_ENGINES")
    return absolute(own) if own else cache_directory() / "engines"
