"""The baseline's answers to both halves of the workload: what candidates are compared with. Each is written to disk
at once, so that an interrupted run loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pennyweight import codec
from pennyweight.evidence import Reference
from pennyweight.json_lines import JsonLines
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
        lines = JsonLines(self._file(half))

        def keep(reference: Reference) -> None:
            self._held[half][reference.request_id] = reference
            lines.append(codec.plain(reference))

        return keep

    def read_prompts(self, tokenizer: Tokenizer) -> None:
        """The tuning half's prompts as the model reads them."""
        self._prompts = tuple(tokenizer.prompt_text(request) for request in self.tuning.requests)

    def prompts(self) -> tuple[str, ...]:
        return self._prompts or ()

    def _file(self, half: str) -> Path:
        return self._directory / f"baseline-{half}.jsonl"

    def _read(self, file: Path) -> dict[str, Reference]:
        """An answer that was cut off while it was written is asked for again."""
        lines = JsonLines(file)
        made = [codec.value_of(Reference, row, str(file)) for row in lines.read()]
        lines.cut()
        return {reference.request_id: reference for reference in made}
