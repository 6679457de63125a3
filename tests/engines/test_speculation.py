"""Settings of speculation, over the engines that have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight import engines
from pennyweight.errors import EngineRefused

SPECULATING = ["openvino", "llamacpp"]


@pytest.mark.parametrize("engine", SPECULATING)
@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"speculative_method": "medusa"}, "ngram or draft_model"),
        ({"num_speculative_tokens": 0}, "1 to 64"),
        ({"prompt_lookup_max": 0}, "1 to 64"),
        ({"speculative_method": "draft_model", "draft_model": "/nowhere"}, "pw draft"),
        ({"draft_model": "/nowhere"}, "speculative_method"),
    ],
)
def test_what_cannot_be_is_refused(engine: str, settings: dict[str, object], word: str) -> None:
    with pytest.raises(EngineRefused, match=word):
        engines.make(engine, settings)


@pytest.mark.parametrize("engine", SPECULATING)
def test_a_draft_is_taken(engine: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    engines.make(engine, {"speculative_method": "draft_model", "draft_model": str(tmp_path)})


@pytest.mark.parametrize("engine", ["onnxruntime", "transformers"])
def test_engines_without_drafts_say_what_they_have(engine: str) -> None:
    engines.make(engine, {"speculative_method": "ngram"})
    with pytest.raises(EngineRefused, match="use ngram"):
        engines.make(engine, {"speculative_method": "draft_model", "draft_model": "/x"})
    with pytest.raises(EngineRefused, match="whole prompts"):
        engines.make(engine, {"max_num_batched_tokens": -1})


def test_engines_without_it_name_what_they_have() -> None:
    with pytest.raises(EngineRefused, match="max_num_seqs"):
        engines.make("scripted", {"speculative_method": "ngram"})
