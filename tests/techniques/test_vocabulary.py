"""A smaller vocabulary says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight import checkpoint, techniques, traces
from pennyweight.errors import ModelError, UsageError
from pennyweight.model import Model
from pennyweight.techniques.token_ids import needed, renumbered
from pennyweight.techniques.vocabulary import Vocabulary, check_other_tables
from pennyweight.tokenizer import Tokenizer, tokens_per_baseline_token, translation
from pennyweight.workload import texts

TEXTS = tuple(texts(traces.load("chat").requests))
CORPUS = TEXTS[:8] * 6


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path) -> tuple[Model, Model]:
    whole = checkpoint.open_model(str(tiny_checkpoint))
    return whole, techniques.apply(Vocabulary(448, CORPUS), whole)


def logits(model: Model, tokens: list[int]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(model.path)(torch.tensor([tokens])).logits[0]


@pytest.mark.slow
def test_inside_the_kept_vocabulary_every_logit_is_the_same(pair: tuple[Model, Model]) -> None:
    """So the greedy choice among kept tokens is, too."""
    import torch

    whole, trimmed = pair
    before, after = Tokenizer(whole.path), Tokenizer(trimmed.path)
    old = [before.backend.token_to_id(after.backend.id_to_token(i)) for i in range(after.vocabulary_size)]
    for text in TEXTS[:8]:
        tokens = after.encode(text)
        assert [old[token] for token in tokens] == before.encode(text)
        full = logits(whole, before.encode(text))[:, old]
        assert torch.allclose(logits(trimmed, tokens), full, atol=1e-5)
        assert torch.equal(logits(trimmed, tokens).argmax(-1), full.argmax(-1))


@pytest.mark.slow
def test_transformers_cuts_text_as_we_do(pair: tuple[Model, Model]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pair[1].path)
    ours = Tokenizer(pair[1].path)
    for text in ("A list of things.", "Ünïcödé 漢字 🙂", "  spaces\n\n\ttabs"):
        assert tokenizer.encode(text) == ours.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token_id == ours.end_tokens[0]


@pytest.mark.slow
def test_a_lost_token_is_translated_to_its_parts(pair: tuple[Model, Model]) -> None:
    whole, trimmed = pair
    translate = translation(whole.path, trimmed.path)
    assert translate is not None and translation(whole.path, whole.path) is None
    before, after = Tokenizer(whole.path), Tokenizer(trimmed.path)
    for text in TEXTS[8:20]:
        tokens = before.encode(text)
        spelled = [part for token in tokens for part in translate(token)]
        assert after.decode(spelled) == text
    assert 1.0 < tokens_per_baseline_token(whole.path, trimmed.path, TEXTS[8:]) < 1.5
    assert tokens_per_baseline_token(whole.path, trimmed.path, TEXTS[:8]) == 1.0


def test_ids_in_configs_follow() -> None:
    made = renumbered({"eos_token_id": [5, 7], "pad_token_id": 5, "bos_token_id": None, "other": 5}, {5: 1, 7: 2})
    assert made == {"eos_token_id": [1, 2], "pad_token_id": 1, "bos_token_id": None, "other": 5}
    with pytest.raises(ModelError, match="eos_token_id is 9, which its tokenizer does not have"):
        renumbered({"eos_token_id": 9}, {5: 1})


def test_tokens_that_are_only_suppressed_may_go() -> None:
    config = {
        "suppress_tokens": [5, 9],
        "bad_words_ids": [[5, 7], [9], [7]],
        "forced_eos_token_id": 7,
        "pad_token_id": -1,
    }
    assert renumbered(config, {5: 1, 7: 2}) == {
        "suppress_tokens": [1],
        "bad_words_ids": [[1, 2], [2]],
        "forced_eos_token_id": 2,
        "pad_token_id": None,
    }
    assert list(needed(config)) == [7]
    with pytest.raises(ModelError, match="sequence_bias"):
        list(needed({"sequence_bias": [[[1], 2.0]]}))


def test_a_trimming_without_text_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="text"):
        Vocabulary(64).result_kind(checkpoint.open_model(str(tiny_checkpoint)))


def test_a_damaged_tokenizer_is_refused_before_any_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    value = json.loads(file.read_text())
    value["model"]["end_of_word_suffix"] = "</w>"
    file.write_text(json.dumps(value))
    with pytest.raises(ModelError, match="suffixes"):
        Vocabulary(64, CORPUS).result_kind(checkpoint.open_model(str(tmp_path / "model")))


def test_a_second_table_of_tokens_that_cannot_follow_is_refused_by_name() -> None:
    sizes = {"model.embed_tokens.weight": (64, 8), "model.layers.0.mlp.down_proj.weight": (8, 64), "norm.weight": (64,)}
    check_other_tables(sizes, 64)
    with pytest.raises(ModelError, match="hash_embed"):
        check_other_tables({**sizes, "model.hash_embed.weight": (64, 8)}, 64)
    with pytest.raises(ModelError, match="embed_tokens_per_layer"):
        check_other_tables({**sizes, "model.embed_tokens_per_layer.weight": (64, 32)}, 64)
