"""A study on disk: a JSON-lines file with a header, then one trial a line, durable before the next begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pennyweight import codec, formats
from pennyweight.budget import Budget
from pennyweight.errors import StorageError
from pennyweight.json_lines import JsonLines
from pennyweight.study import Study, Trial

STUDY_FILE = "study.jsonl"


class Journal(Study):
    """A study whose every trial is in the file at `path` before `append` returns. With `resume`, what the file holds is
    read first; it must answer the same question."""

    def __init__(self, path: Path, question: Mapping[str, Any], *, resume: bool = False) -> None:
        super().__init__(dict(question))
        self.path, self._lines = path, JsonLines(path)
        if path.exists() and resume:
            self._read()
        else:
            self._lines.begin({"schema_version": formats.SCHEMA_VERSION, "question": self.question})

    def append(self, trial: Trial) -> Trial:
        self._lines.append(codec.plain(trial))
        return super().append(trial)

    def _read(self) -> None:
        try:
            header, *given = self._lines.read()
            question, version = dict(header["question"]), header.get("schema_version", 1)
            rows = [dict(row) for row in given]
        except (IndexError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self.path} is no study: start again in another directory, with -o.") from error
        changed = _differences(question, self.question)
        if changed:
            raise StorageError(
                f"{self.path} answers another question (different: {', '.join(changed)}): "
                "repeat the first command, or start again in another directory, with -o."
            )
        self.trials = [
            formats.value_of("trial", {"schema_version": version, **row}, f"{self.path}, line {number}")
            for number, row in enumerate(rows, 2)
        ]
        self._lines.cut()


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ. A key that an older release did not write has its default, which is empty."""
    names = sorted({*before, *now} - {"budget"})
    changed = [name for name in names if (before.get(name) or None) != (now.get(name) or None)]
    old, new = (codec.value_of(Budget, one.get("budget") or {}, "the question of the study") for one in (before, now))
    return changed if old == new else [*changed, "budget"]
