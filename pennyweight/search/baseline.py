"""The baseline's answers to both halves of the workload: what candidates are compared with. Each is written to disk
at once, so that an interrupted run loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pennyweight import codec
from pennyweight.evidence import Reference
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import Workload

Half = Literal["tuning", "held-out"]


class BaselineAnswers:
    """`tuning_look` are the tuning requests that need a baseline answer. With `resume`, the answers in `directory` are
    read first."""

    def __init__(
        self, tuning: Workload, held_out: Workload, *, tuning_look: Workload, directory: Path, resume: bool = False
    ) -> None:
        self.tuning, self.held_out = tuning, held_out
        self._wanted: dict[str, Workload] = {"tuning": tuning_look, "held-out": held_out}
        self._directory = directory
        self._held: dict[str, dict[str, Reference]] = {
            name: self._read(self._file(name)) if resume else {} for name in self._wanted
        }
        self._prompts: tuple[str, ...] | None = None

    @property
    def complete(self) -> bool:
        return not any(self.missing(name) for name in self._wanted)

    def of(self, half: Half) -> Mapping[str, Reference]:
        """By request id."""
        return self._held[half]

    def missing(self, half: str) -> Workload | None:
        """The requests that are not answered yet; None where there are none."""
        wanted = self._wanted[half]
        left = tuple(request for request in wanted.requests if request.id not in self._held[half])
        return replace(wanted, requests=left) if left else None

    def keeper(self, half: str) -> Callable[[Reference], None]:
        """A callback that keeps each answer, in memory and on disk."""
        file = self._file(half)

        def keep(reference: Reference) -> None:
            self._held[half][reference.request_id] = reference
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(codec.plain(reference), ensure_ascii=False) + "\n")

        return keep

    def read_prompts(self, tokenizer: Tokenizer) -> None:
        """The tuning half's prompts as the model reads them."""
        self._prompts = tuple(tokenizer.prompt_text(request) for request in self.tuning.requests)

    def prompts(self) -> tuple[str, ...]:
        return self._prompts or ()

    def _file(self, half: str) -> Path:
        return self._directory / f"baseline-{half}.jsonl"

    def _read(self, file: Path) -> dict[str, Reference]:
        """What follows the last newline was cut off while it was written, and is answered again."""
        if not file.exists():
            return {}
        whole = file.read_bytes().split(b"\n")[:-1]
        file.write_bytes(b"".join(line + b"\n" for line in whole))
        made = [codec.value_of(Reference, json.loads(line), str(file)) for line in whole]
        return {reference.request_id: reference for reference in made}
