"""An append-only file of JSON lines, which survives a kill: each line is on disk before `append` returns, and one that
was cut off while it was written is not read again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pennyweight.errors import StorageError


class JsonLines:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Any]:
        """Every whole line; none where there is no file. Raises `ValueError` for a line that is no JSON."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1]]

    def cut(self) -> None:
        """Take off what follows the last newline, so that the next line begins on its own. Only for a file that is
        known to be ours."""
        if self.path.exists():
            whole = self.path.read_bytes()
            os.truncate(self.path, whole.rfind(b"\n") + 1)

    def append(self, value: Any) -> None:
        self._write(value, "a")

    def begin(self, value: Any) -> None:
        """Start the file anew with this line."""
        self._write(value, "w")

    def _write(self, value: Any, mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(json.dumps(value, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written ({error.strerror}): free some space.") from error
