"""Speculative decoding as a setting of an engine (Leviathan et al. 2022, arxiv.org/abs/2211.17192): something cheap
guesses tokens ahead, and the model checks them all in one step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pennyweight.engines import Engine
from pennyweight.errors import EngineRefused

METHODS = ("", "ngram", "draft_model")
MOST_GUESSES = 64


@dataclass(frozen=True)
class Speculating(Engine):
    """`ngram` looks the last `prompt_lookup_max` tokens up in the text so far and guesses what followed there;
    `draft_model` is the directory of a smaller model of the same vocabulary (`pw draft`). Spelled as vLLM's."""

    speculative_method: str = ""
    num_speculative_tokens: int = 4
    prompt_lookup_max: int = 3
    draft_model: str = ""

    draft_file: ClassVar[str] = "model.gguf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.speculative_method not in METHODS:
            known = ", ".join(filter(None, METHODS))
            raise EngineRefused(f"{self.name}: speculative_method={self.speculative_method!r} is unknown: use {known}.")
        if not 1 <= self.num_speculative_tokens <= MOST_GUESSES:
            raise EngineRefused(
                f"{self.name}: num_speculative_tokens={self.num_speculative_tokens} is not possible: use 1 to "
                f"{MOST_GUESSES}."
            )
        if not 1 <= self.prompt_lookup_max <= MOST_GUESSES:
            raise EngineRefused(
                f"{self.name}: prompt_lookup_max={self.prompt_lookup_max} is not possible: use 1 to {MOST_GUESSES}."
            )
        if self.speculative_method == "draft_model" and not (Path(self.draft_model) / self.draft_file).exists():
            raise EngineRefused(
                f"{self.name}: draft_model={self.draft_model!r} holds no {self.draft_file}: make one with `pw draft`."
            )
        if self.draft_model and self.speculative_method != "draft_model":
            raise EngineRefused(f"{self.name}: draft_model needs speculative_method=draft_model.")
