"""What was found out about a large file, kept until the file changes: a checksum of 15 GB takes half a minute, and an
artifact is opened many times."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pennyweight.model import canonical_hash
from pennyweight.paths import cache_directory

SMALL = 1 << 20  # bytes; up to here it is found out again
SETTLED_SECONDS = 2.0  # a file changed later than this could change once more within one tick of the clock


def remembered(file: Path, what: str, find: Callable[[], str]) -> str:
    """`find()`, or what it found when the file was last as it is now: same place, size, inode, and times of change. A
    program can set a file's time of modification, but not that of its inode."""
    state = file.stat()
    if state.st_size <= SMALL:
        return find()
    key = [str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]
    kept = cache_directory() / "files" / f"{canonical_hash(key)}.json"
    known = read_kept(kept)
    if what not in known:
        settled = time.time() - max(state.st_mtime, state.st_ctime) > SETTLED_SECONDS
        known = {**known, what: find()}
        if settled and file.stat().st_ctime_ns == state.st_ctime_ns:
            keep(kept, known)
    return str(known[what])


def read_kept(kept: Path) -> dict[str, Any]:
    """What `keep` wrote; empty where it did not, or where it cannot be read any more."""
    try:
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def keep(kept: Path, known: Mapping[str, Any]) -> None:
    """Write it whole or not at all. A cache that cannot be written costs only time."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(known), encoding="utf-8")
        partial.replace(kept)
    except OSError:
        pass  # found out again next time
