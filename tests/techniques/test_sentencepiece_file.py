"""A tokenizer.model for converters that read nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pennyweight.techniques.sentencepiece_file import sentencepiece_file, with_sentencepiece_file
from tests.families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_sentencepiece_reads_the_same_pieces(family: str) -> None:
    from sentencepiece import SentencePieceProcessor

    made, _ = FAMILIES[family]()
    processor = SentencePieceProcessor(model_proto=sentencepiece_file(json.loads(made.to_str())))
    vocabulary = made.get_vocab(with_added_tokens=True)
    assert processor.vocab_size() == max(vocabulary.values()) + 1
    wrong = [p for p, n in vocabulary.items() if processor.id_to_piece(n) not in (p, f"[{p} {n}]")]
    assert not wrong


def test_it_is_added_only_where_a_converter_wants_it(tmp_path: Path) -> None:
    made, _ = FAMILIES["llama2"]()
    made.save(str(tmp_path / "tokenizer.json"))
    for model_type, added in (("llama", False), ("gemma", True)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        with with_sentencepiece_file(tmp_path) as directory:
            assert (directory / "tokenizer.model").exists() is added
            assert (directory / "tokenizer.json").exists()
    assert not (tmp_path / "tokenizer.model").exists()
    (tmp_path / "tokenizer.model").write_bytes(b"own")
    with with_sentencepiece_file(tmp_path) as directory:
        assert directory == tmp_path


def test_a_phi_with_a_byte_level_tokenizer_is_converted_as_one(tmp_path: Path) -> None:
    made, names = FAMILIES["gpt2"]()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**names, "tokenizer_class": "PreTrainedTokenizerFast"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "phi3"}))
    with with_sentencepiece_file(tmp_path) as directory:
        assert not (directory / "tokenizer.model").exists()
        assert json.loads((directory / "tokenizer_config.json").read_text())["tokenizer_class"] == "GPT2Tokenizer"
    assert "PreTrainedTokenizerFast" in (tmp_path / "tokenizer_config.json").read_text()
