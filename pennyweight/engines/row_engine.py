"""The settings of engines on the row loop (rows.py): what the loop can do, whatever the library is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pennyweight.engines.speculation import Speculating
from pennyweight.errors import EngineRefused


@dataclass(frozen=True)
class RowEngine(Speculating):
    """`max_num_batched_tokens` is how much of a prompt one step takes (0: all of it): running answers wait less for it.
    `enable_prefix_caching` keeps as many ended rows as may run. Guesses are made while one request runs alone: checking
    several tokens of several rows would need a padded batch, and pays least where the batch is large."""

    max_num_batched_tokens: int = 0
    enable_prefix_caching: bool = False

    methods: ClassVar[tuple[str, ...]] = ("ngram",)
    levers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "prefix caching": {"enable_prefix_caching": True},
        "small steps": {"max_num_batched_tokens": 64},
        "n-gram guesses": {"speculative_method": "ngram"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_num_batched_tokens < 0:
            raise EngineRefused(
                f"{self.name}: max_num_batched_tokens={self.max_num_batched_tokens} is not possible: use 0 (whole "
                "prompts) or more."
            )

    @property
    def slots(self) -> int:
        """Rows of the store: those that run, and those that are kept."""
        return self.max_num_seqs * (2 if self.enable_prefix_caching else 1)
