"""Settings of speculation, over the engines that have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight import engines
from pennyweight.engines.batching.settings import RowEngine
from pennyweight.errors import EngineRefused

SPECULATING = ["openvino", "llamacpp", "onnxruntime", "transformers"]


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
    cls: Any = engines.engine_class(engine)
    (tmp_path / cls.draft_file).touch()
    engines.make(engine, {"speculative_method": "draft_model", "draft_model": str(tmp_path)})


def test_a_draft_of_other_tokens_is_refused(tmp_path: Path) -> None:
    for name, size, context in (("large", 100, 256), ("small", 99, 256), ("short", 100, 128), ("fit", 100, 256)):
        (tmp_path / name).mkdir()
        config = {"vocab_size": size, "max_position_embeddings": context}
        (tmp_path / name / "config.json").write_text(json.dumps(config))

    def draft_directory(name: str) -> Path | None:
        settings = {"speculative_method": "draft_model", "draft_model": str(tmp_path / name)}
        made = engines.make("transformers", settings)
        assert isinstance(made, RowEngine)
        return made.draft_directory(tmp_path / "large")

    assert draft_directory("fit") == tmp_path / "fit"
    for name in ("small", "short"):
        with pytest.raises(EngineRefused, match=r"pw draft"):
            draft_directory(name)


def test_engines_without_it_name_what_they_have() -> None:
    with pytest.raises(EngineRefused, match="max_num_seqs"):
        engines.make("scripted", {"speculative_method": "ngram"})
