"""The settings of engines on the row loop (rows.py): what the loop can do, whatever the library is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from pennyweight.engines.speculation import SPECULATION_PRESETS, Speculating
from pennyweight.errors import EngineRefused


@dataclass(frozen=True)
class RowEngine(Speculating):
    """`max_num_batched_tokens` is how much of a prompt one step takes (0: all of it): running answers wait less for it.
    `enable_prefix_caching` keeps as many ended rows as may run. Guesses are made while one request runs alone: checking
    several tokens of several rows would need a padded batch, and pays least where the batch is large."""

    max_num_batched_tokens: int = 0
    enable_prefix_caching: bool = False

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "prefix caching": {"enable_prefix_caching": True},
        "small steps": {"max_num_batched_tokens": 64},
        **SPECULATION_PRESETS,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_num_batched_tokens < 0:
            raise EngineRefused(
                f"{self.name}: max_num_batched_tokens={self.max_num_batched_tokens} is not possible: use 0 (whole "
                "prompts) or more."
            )

    def draft_of(self, directory: Path) -> Path | None:
        """Where the small model is that guesses for the one in this directory. Both must mean the same by a token."""
        if not self.draft_model:
            return None
        place = Path(self.draft_model)
        ours, its = (json.loads((d / "config.json").read_text()) for d in (directory, place))
        if ours["vocab_size"] != its["vocab_size"] or self.context_length(ours) > self.context_length(its):
            raise EngineRefused(
                f"{self.name}: the draft in {place} has {its['vocab_size']} tokens and a context of "
                f"{self.context_length(its)}, the model {ours['vocab_size']} and {self.context_length(ours)}: make one "
                "with `pw draft`."
            )
        return place

    def of_the_draft(self) -> Self:
        """The same for the small model: one row, and nothing guesses for it."""
        return replace(self, speculative_method="", draft_model="", max_num_seqs=1, enable_prefix_caching=False)

    @property
    def slots(self) -> int:
        """Rows of the store: those that run, and those that are kept."""
        return self.max_num_seqs * (2 if self.enable_prefix_caching else 1)
