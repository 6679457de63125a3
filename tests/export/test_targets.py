"""Exports: a checkpoint as it is, and a command beside it that says it was not run."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from pennyweight import checkpoint
from pennyweight.errors import EngineMissing, EngineRefused, UsageError
from pennyweight.export.targets import CHECKPOINT, EXPORTS, NOT_RUN, export
from pennyweight.install import environments
from pennyweight.model import Lineage, Model


@pytest.fixture
def model(tokenizer_directory: Path, tmp_path: Path) -> Model:
    directory = tmp_path / "model"
    directory.mkdir()
    for file in tokenizer_directory.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "model.safetensors").write_bytes(b"weights")
    return Model(directory, "huggingface", "BF16", Lineage("tiny", {"a": "1"}))


@pytest.mark.parametrize("name", [name for name, made in EXPORTS.items() if made.command])
def test_the_script_serves_the_checkpoint_beside_it(name: str, model: Model, tmp_path: Path) -> None:
    script = export(model, name, tmp_path / "out", 1234).path
    text = script.read_text()
    assert NOT_RUN in text and "1234" in text and str(model.context_length) in text
    assert (tmp_path / "out" / CHECKPOINT / "model.safetensors").read_bytes() == b"weights"
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert CHECKPOINT in shlex.split(text.splitlines()[-1].split("exec ")[1])


def test_what_cannot_be_exported_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sglang, tensorrt-llm, litert"):
        export(model, "abacus", tmp_path / "out", 1)
    quantized = Model(model.path, "gguf", "Q8_0", model.lineage)
    with pytest.raises(EngineRefused, match="BF16"):
        export(quantized, "sglang", tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_litert_needs_its_environment(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYWEIGHT_ENGINES", str(tmp_path / "none"))
    with pytest.raises(EngineMissing, match="pw engines install litert"):
        export(model, "litert", tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_litert_s_own_runtime_answers_as_transformers_does(tiny_checkpoint: Path, tmp_path: Path) -> None:
    if environments.made("litert", "venv/bin/python") is None:
        pytest.skip("pw engines install litert was not run")
    made = export(checkpoint.open_model(str(tiny_checkpoint)), "litert", tmp_path / "out", 1)
    whole = made.checked["model.tflite"]
    assert whole["tokens_as_transformers"] == whole["of"]
    assert (made.path / "model_int8.tflite").stat().st_size < (made.path / "model.tflite").stat().st_size
    assert (made.path / "tokenizer.json").exists() and not list(made.path.glob("tmp*"))
