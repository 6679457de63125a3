"""Trimmed tokenizers take any text, and cut what they know as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from pennyweight import traces
from pennyweight.errors import ModelError
from pennyweight.techniques.pieces import Pieces
from pennyweight.workload import texts

PROMPTS = texts(traces.load("chat").requests)
SOME = PROMPTS[:12]


def byte_level() -> dict[str, Any]:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(PROMPTS, trainer)
    return dict(json.loads(backend.to_str()))


def byte_fallback() -> dict[str, Any]:
    """As Llama-2 and Gemma have it: characters, and bytes for what is no piece."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=["<unk>", *bytes_], show_progress=False)
    backend.train_from_iterator((p.replace(" ", "▁") for p in PROMPTS), trainer)
    value = dict(json.loads(backend.to_str()))
    value["added_tokens"] = [t for t in value["added_tokens"] if t["content"] == "<unk>"]
    return value


def unigram() -> dict[str, Any]:
    bytes_ = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    full = tokenizers.Tokenizer(models.Unigram())
    full.train_from_iterator(PROMPTS, trainers.UnigramTrainer(vocab_size=800, show_progress=False))
    learnt = json.loads(full.to_str())["model"]["vocab"]
    vocabulary = [("<unk>", 0.0), *bytes_, *map(tuple, learnt)]
    backend = tokenizers.Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return dict(json.loads(backend.to_str()))


@pytest.fixture(scope="module", params=[byte_level, byte_fallback, unigram])
def pair(request: pytest.FixtureRequest) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer, list[int]]:
    """A tokenizer, itself trimmed to what a few prompts need, and the old id of each new one."""
    value = request.param()
    full = tokenizers.Tokenizer.from_str(json.dumps(value))
    pieces = Pieces(value)
    used = {full.id_to_token(token) for text in SOME for token in full.encode(text).ids}
    kept, merges = pieces.closed({*used, *pieces.safe})
    trimmed, old = pieces.trimmed(kept, merges)
    assert len(old) < len(pieces.ids)
    return full, tokenizers.Tokenizer.from_str(json.dumps(trimmed)), old


def test_what_is_known_is_cut_as_before(pair: Any) -> None:
    full, trimmed, old = pair
    for text in SOME:
        assert [old[token] for token in trimmed.encode(text).ids] == full.encode(text).ids


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(pair: Any, text: str) -> None:
    full, trimmed, _ = pair
    assert trimmed.decode(trimmed.encode(text).ids) == full.decode(full.encode(text).ids)


def test_filling_reaches_the_size_and_leaves_no_piece_unreachable(pair: Any) -> None:
    full, _, _ = pair
    pieces = Pieces(json.loads(full.to_str()))
    size = len(pieces.safe) + 300
    kept, merges = pieces.filled(pieces.safe, size)
    assert len(kept) == size
    trimmed = tokenizers.Tokenizer.from_str(json.dumps(pieces.trimmed(kept, merges)[0]))
    assert trimmed.get_vocab_size() == size
    for piece in kept - pieces.safe:
        assert [part.value for part in trimmed.model.tokenize(piece)] == [piece]


def test_a_full_corpus_needs_a_larger_vocabulary() -> None:
    pieces = Pieces(byte_level())
    with pytest.raises(ModelError, match="raise --tokens"):
        pieces.filled(pieces.ids, 320)


def test_a_lost_special_token_is_refused() -> None:
    pieces = Pieces(byte_level())
    with pytest.raises(ModelError, match="misses"):
        pieces.trimmed(pieces.safe - {"<|end|>"}, set())


def test_special_ids_of_the_post_processor_follow(tokenizer_directory: Path) -> None:
    value = json.loads((tokenizer_directory / "tokenizer.json").read_text())
    value["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [],
        "pair": [],
        "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}},
    }
    pieces = Pieces(value)
    made, old = pieces.trimmed(*pieces.closed(pieces.safe))
    new = made["post_processor"]["special_tokens"]["<|im_end|>"]["ids"]
    assert [old[i] for i in new] == [2]


@pytest.mark.parametrize("kind", ["WordPiece", "WordLevel"])
def test_other_kinds_are_refused(kind: str) -> None:
    with pytest.raises(ModelError, match=kind):
        Pieces({"model": {"type": kind, "vocab": {}}, "added_tokens": []})


def test_tokens_beyond_the_embedding_go() -> None:
    """Gemma's tokenizer has one for images whose id is the number of rows."""
    value = byte_level()
    rows = len(value["model"]["vocab"])
    value["added_tokens"] = [*value["added_tokens"], {"id": rows, "content": "<image>", "special": True}]
    pieces = Pieces(value, rows)
    made, old = pieces.trimmed(*pieces.closed(pieces.safe))
    assert max(old) < rows and "<image>" not in {token["content"] for token in made["added_tokens"]}
