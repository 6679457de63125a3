"""Speculative decoding as a setting of an engine (Leviathan et al. 2022, arxiv.org/abs/2211.17192): a cheap
method proposes draft tokens, and the model verifies them all in one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.engines.base import Engine
from pennyweight.errors import EngineRefused

A_DRAFT = "<a draft>"  # stands for a directory where presets are listed
SPECULATION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "n-gram speculation": {"speculative_method": "ngram"},
    "draft model": {"speculative_method": "draft_model", "draft_model": A_DRAFT},
}
MAX_SPECULATIVE_TOKENS = 64


@dataclass(frozen=True)
class Speculating(Engine):
    """`ngram` looks the last `prompt_lookup_max` tokens up in the text so far and drafts the tokens that followed;
    `draft_model` is the directory of a smaller model of the same vocabulary (`pw draft`). The names are vLLM's."""

    speculative_method: str = ""
    num_speculative_tokens: int = 4
    prompt_lookup_max: int = 3
    draft_model: str = ""

    draft_file: ClassVar[str] = "model.gguf"
    path_settings: ClassVar[tuple[str, ...]] = ("draft_model",)
    methods: ClassVar[tuple[str, ...]] = ("ngram", "draft_model")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.speculative_method not in ("", *self.methods):
            known = " or ".join(self.methods)
            raise EngineRefused(
                f"{self.name}: speculative_method={self.speculative_method!r} is not supported: use {known}."
            )
        for setting in ("num_speculative_tokens", "prompt_lookup_max"):
            value = getattr(self, setting)
            if not 1 <= value <= MAX_SPECULATIVE_TOKENS:
                raise EngineRefused(
                    f"{self.name}: {setting}={value} is not possible: use 1 to {MAX_SPECULATIVE_TOKENS}."
                )
        if self.speculative_method == "draft_model" and not (Path(self.draft_model) / self.draft_file).exists():
            raise EngineRefused(
                f"{self.name}: draft_model={self.draft_model!r} holds no {self.draft_file}: make one with `pw draft`."
            )
        if self.draft_model and self.speculative_method != "draft_model":
            raise EngineRefused(f"{self.name}: draft_model needs speculative_method=draft_model.")
