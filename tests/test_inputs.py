"""What a user names: requests that do not fit a model's context, and artifacts that were changed since they were
made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pennyweight import checkpoint, formats, techniques
from pennyweight.checkpoint import build
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineRefused, StorageError, UsageError, WorkloadError
from pennyweight.inputs import fitted, is_described, read_target, usual_engine
from pennyweight.model import Lineage
from pennyweight.techniques.quantize import Quantize
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import Request, Workload

CONTEXT = 64


@pytest.fixture
def model(tokenizer_directory: Path, tmp_path: Path) -> Path:
    place = tmp_path / "model"
    shutil.copytree(tokenizer_directory, place)
    (place / "config.json").write_text(json.dumps({"max_position_embeddings": CONTEXT}))
    return place


WORK = Workload(
    "w", (Request("short", "a", 8, prompt="hello"), Request("long", "b", 40, prompt="many words and more " * 40))
)


def test_too_long_is_refused_with_count_and_name(model: Path) -> None:
    with pytest.raises(WorkloadError, match=r"1 of 2 requests .* 64 tokens \('long'\).*--too-long drop"):
        fitted(WORK, model, how="refuse", say=print)


def test_dropped_ones_are_named(model: Path) -> None:
    said: list[str] = []
    assert [r.id for r in fitted(WORK, model, how="drop", say=said.append).requests] == ["short"]
    assert any("left out" in sentence for sentence in said)


def test_truncated_ones_keep_their_end_and_fit(model: Path) -> None:
    long = fitted(WORK, model, how="truncate", say=lambda _: None).requests[1]
    assert len(long.prompt_tokens) + long.max_tokens <= CONTEXT
    whole = Tokenizer(model).request_tokens(WORK.requests[1])
    assert list(long.prompt_tokens) == list(whole)[-len(long.prompt_tokens) :]


def test_what_fits_stays_as_it_is(model: Path) -> None:
    fits = Workload("w", WORK.requests[:1])
    assert fitted(fits, model, how="refuse", say=print) is fits


def test_without_a_model_nothing_is_known() -> None:
    assert fitted(WORK, None, how="refuse", say=print) is WORK


def test_another_word_is_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="refuse, drop or truncate"):
        fitted(WORK, model, how="ignore", say=print)


def test_a_chat_without_a_template_is_warned_of(model: Path) -> None:
    for file in model.glob("chat_template*"):
        file.unlink()
    config = model / "tokenizer_config.json"
    if config.exists():
        config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": None}))
    said: list[str] = []
    chat = Workload("w", (Request("a", "a", 4, messages=({"role": "user", "content": "hi"},)),))
    fitted(chat, model, how="refuse", say=said.append)
    assert any("no chat template" in sentence for sentence in said)


def test_an_artifact_with_a_flipped_byte_is_not_served(tmp_path: Path) -> None:
    lineage = Lineage("tiny", {"a": "1"})

    def make(place: Path) -> None:
        (place / "model.gguf").write_bytes(b"weights")

    made = build(lineage, "gguf", "F16", make, tmp_path)
    formats.write_deployment(tmp_path, Deployment("scripted", str(made.path), made.id, "F16", {}))
    assert read_target(str(tmp_path)).service is not None
    (made.path / "model.gguf").write_bytes(b"weighty")
    with pytest.raises(StorageError, match=r"model\.gguf"):
        read_target(str(tmp_path))


def test_a_model_without_an_engine_is_served_by_its_formats_usual_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert usual_engine(str(tiny_checkpoint)) == "transformers"
    formats.write_deployment(tmp_path, Deployment("scripted", str(tiny_checkpoint), "1", "F16", {}))
    assert usual_engine(str(tmp_path)) is None  # its own is named
    assert usual_engine("http://127.0.0.1:8000") is None


def test_an_engine_that_answers_as_another_model_does_not_serve_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A GGUF of Llama 3.1: openvino would read past its rope scaling."""
    whole = checkpoint.open_model(str(tiny_checkpoint))
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}
    more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {**whole.config, "rope_parameters": {**rope, **more}}

    def make(target: Path) -> None:
        (target / "config.json").write_text(json.dumps(config))
        (target / "model.gguf").write_bytes(b"")

    made = checkpoint.build(Lineage("llama", {"a": "b"}), "gguf", "Q8_0", make, tmp_path)
    with pytest.raises(EngineRefused, match=r"tried on Llama 3\.1 and is not right"):
        read_target(str(made.path), engine="openvino")


def test_a_checkpoint_is_converted_for_an_engine_of_another_format(tiny_checkpoint: Path) -> None:
    service = read_target(str(tiny_checkpoint), engine="openvino").service
    assert service is not None and service.only is not None
    assert service.only.scheme == "F16" and (Path(service.only.model_path) / "model.gguf").exists()


def test_an_artifact_is_not_made_into_another_format(tiny_checkpoint: Path) -> None:
    made = techniques.apply(Quantize("F16"), checkpoint.open_model(str(tiny_checkpoint)))
    with pytest.raises(UsageError, match="pw quantize"):
        read_target(str(made.path), engine="transformers")


def test_what_describes_a_service_is_told_from_a_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert usual_engine("demo") == "transformers"
    assert usual_engine("someone/some-model") == "transformers"
    assert usual_engine("./not-there") is None
    assert is_described(str(formats.write_deployment(tmp_path, Deployment("scripted", "x", "1", "F16", {}))))
    assert not is_described(str(tiny_checkpoint))
