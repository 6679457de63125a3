"""A user's GGUF file stays what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pennyweight import checkpoint, inputs, techniques
from pennyweight.techniques.own_file import OwnFile, scheme_of
from pennyweight.techniques.quantize import Quantize


@pytest.mark.slow
def test_the_file_is_kept_byte_for_byte_with_a_config_and_a_tokenizer(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = techniques.apply(Quantize("Q8_0"), checkpoint.open_model(str(tiny_checkpoint)))
    file = tmp_path / "my model.gguf"
    shutil.copyfile(made.path / "model.gguf", file)
    assert scheme_of(file) == "Q8_0"
    own = techniques.apply(OwnFile.of(file), inputs.open_model(str(file)))
    assert (own.format, own.scheme) == ("gguf", "Q8_0")
    kept = own.path / "model.gguf"
    assert kept.read_bytes() == file.read_bytes() and kept.stat().st_ino != file.stat().st_ino
    assert (own.path / "config.json").exists() and (own.path / "tokenizer.json").exists()
    assert not (own.path / "model.safetensors.index.json").exists()
