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
    """`max_num_batched_tokens` limits the prompt tokens of one step (0: no limit), so that running answers wait less
    for somebody's long prompt.
    `enable_prefix_caching` keeps up to `max_num_seqs` ended rows. A library that verifies drafts of several rows in one
    forward (`verifies_rows`) speculates at any load, as long as that is measured to be faster (pace.py); another only
    while one request runs.
    `draft_tolerance` above 0 makes greedy answers a speculative cascade (Narasimhan et al. 2024, arxiv.org/abs/
    2405.19261): a drafted token is kept if its probability is at least (1 - draft_tolerance) times that of the
    likeliest one, so each token loses at most -ln(1 - draft_tolerance) nats, and answers depend on what was drafted:
    hold them against the unmodified model's with `pw evaluate`."""

    max_num_batched_tokens: int = 512
    enable_prefix_caching: bool = False
    draft_tolerance: float = 0.0

    forms: ClassVar[tuple[str, ...]] = ("json_schema", "choice", "regex", "grammar")  # grammar.py
    any_schema: ClassVar[bool] = True
    embeds: ClassVar[bool] = True
    answer_fields: ClassVar[tuple[str, ...]] = (
        *Speculating.answer_fields,
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "min_tokens",
    )
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

        if not 0 <= self.draft_tolerance < 1:
            raise EngineRefused(
                f"{self.name}: draft_tolerance={self.draft_tolerance} is not possible: use 0 (lossless) to below 1."
            )
        if self.draft_tolerance and not self.speculative_method:
            raise EngineRefused(f"{self.name}: draft_tolerance needs speculative_method, whose drafts it keeps.")

    def draft_directory(self, directory: Path) -> Path | None:
        """The draft model's directory, for the model in `directory`. Both must have the same vocabulary."""
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

    def draft_settings(self) -> Self:
        """These settings for the draft model: no speculation of its own."""
        return replace(self, speculative_method="", draft_model="", draft_tolerance=0.0, enable_prefix_caching=False)

    @property
    def slots(self) -> int:
        """Rows of the store: those that run, and those that are kept."""
        return self.max_num_seqs * (2 if self.enable_prefix_caching else 1)
