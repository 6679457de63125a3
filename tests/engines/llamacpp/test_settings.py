"""llama.cpp's settings and command line, and the end of its server; what it answers is under tests/contracts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import openai
import psutil
import pytest

from pennyweight import checkpoint, engines, techniques
from pennyweight.deployment import Deployment
from pennyweight.engines.llamacpp.backend import _splits
from pennyweight.engines.llamacpp.settings import LlamaCpp
from pennyweight.errors import EngineError, EngineMissing, EngineRefused
from pennyweight.serve.launchers import local
from pennyweight.serve.process import ServerProcess
from pennyweight.techniques.quantize import Quantize

CONFIG = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "vocab_size": 512,
    "max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"kv_cache_dtype": "int3"}, "q8_0"),
        ({"flash_attention": "maybe"}, "auto, on, off"),
        ({"flash_attention": "off", "kv_cache_dtype": "q8_0"}, "flash attention"),
        ({"max_model_len": -1}, "max_model_len"),
        ({"max_num_batched_tokens": 1}, "max_num_batched_tokens"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(EngineRefused, match=word):
        engines.make("llamacpp", settings)


def test_a_cache_that_does_not_fit_is_refused_with_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pennyweight.engines.llamacpp.settings.free_memory", lambda: 2**28 + 1000)
    asked = LlamaCpp(max_num_seqs=32, max_model_len=8192)
    with pytest.raises(EngineRefused, match=r"0\.5 GiB of cache and 0\.2 GiB are.* 4096 tokens a slot, or 16 slots"):
        asked.refuse_memory(CONFIG, weights=1000)
    LlamaCpp(max_num_seqs=16, max_model_len=8192).refuse_memory(CONFIG, weights=1000)
    LlamaCpp(max_num_seqs=32, max_model_len=8192, kv_cache_dtype="q4_0").refuse_memory(CONFIG, weights=1000)


def test_a_slot_holds_what_was_asked_for_and_no_more_than_the_model_knows() -> None:
    assert LlamaCpp().context_length(CONFIG) == 4096
    assert LlamaCpp(max_model_len=512).context_length(CONFIG) == 512
    assert LlamaCpp(max_model_len=99_999).context_length(CONFIG) == 8192


def test_settings_reach_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    made = LlamaCpp(
        max_num_seqs=3,
        max_model_len=512,
        kv_cache_dtype="q8_0",
        speculative_method="draft_model",
        draft_model=str(tmp_path),
        num_speculative_tokens=5,
    ).arguments(Path("some.gguf"), CONFIG)
    pairs = set(pairwise(made))
    assert {
        ("--parallel", "3"),
        ("--ctx-size", "1536"),
        ("--cache-type-k", "q8_0"),
        ("--cache-type-v", "q8_0"),
        ("--spec-type", "draft-simple"),
        ("--spec-draft-n-max", "5"),
        ("--spec-draft-model", str(tmp_path / "model.gguf")),
    } <= pairs
    looked = LlamaCpp(speculative_method="ngram", prompt_lookup_max=2).arguments(Path("some.gguf"), CONFIG)
    assert ("--spec-ngram-simple-size-n", "2") in set(pairwise(looked))


def test_without_a_server_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYWEIGHT_ENGINES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineMissing, match="pw engines install llamacpp"):
        engines.require("llamacpp")


@pytest.mark.parametrize(("version", "warned"), [("0.5.0-dev", False), ("0.9.1", True), ("7000", True)])
def test_a_server_of_another_version_is_warned_of(
    version: str, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYWEIGHT_ENGINES", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program = tmp_path / "llama-server"
    program.write_text(f"#!/bin/sh\necho 'version: {version} (build 1)' >&2\n")
    program.chmod(0o755)
    warning = LlamaCpp.warning()
    assert (warning is not None) == warned
    assert not warned or "0.5.0 up to 0.6" in str(warning)
    assert LlamaCpp.install_path() == str(program)


def test_splits_are_all_ways_to_cut() -> None:
    assert _splits(b"abc", 2) == [[b"a", b"bc"], [b"ab", b"c"]]
    assert _splits(b"ab", 3) == []
    assert _splits(b"", 1) == []


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the worker makes its socket files. Their whole path has room for some 100 letters."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def running(tiny_checkpoint: Path, temporary: Path) -> Iterator[ServerProcess]:
    if reason := LlamaCpp.missing():
        pytest.skip(reason)
    model = techniques.apply(Quantize("F16"), checkpoint.open_model(str(tiny_checkpoint)))
    deployment = Deployment("llamacpp", str(model.path), model.id, "F16", {"max_num_seqs": 2})
    engine = local.start_engine(deployment, temporary / "log", names=("model",))
    try:
        engine.wait_healthy(60)
        yield engine
    finally:
        engine.stop()


@pytest.mark.slow
def test_a_server_that_is_killed_is_named_to_its_client_and_takes_the_worker_along(running: ServerProcess) -> None:
    (server,) = psutil.Process(running.process.pid).children()
    client = openai.OpenAI(base_url=f"{running.base_url}/v1", api_key="none", max_retries=0, timeout=20)
    server.suspend()
    stream = client.completions.create(model="model", prompt="hi", max_tokens=9, stream=True)
    server.kill()
    with pytest.raises(openai.APIError, match="llama-server"):
        list(stream)
    assert running.process.wait(10) > 0
    assert "llama-server ended, killed by signal 9 (often: out of memory)" in running.log_tail()


@pytest.mark.slow
def test_a_stopped_one_leaves_no_process_and_no_socket_behind(running: ServerProcess, temporary: Path) -> None:
    (server,) = psutil.Process(running.process.pid).children()
    assert list(temporary.glob("pennyweight-llama-*/*.sock"))
    running.process.terminate()
    running.process.wait(20)
    assert not psutil.pid_exists(server.pid) or server.status() == psutil.STATUS_ZOMBIE
    assert not list(temporary.glob("pennyweight-llama-*"))


def test_a_folder_without_weights_is_told_in_a_sentence(tokenizer_directory: Path, temporary: Path) -> None:
    directory = temporary / "model"
    shutil.copytree(tokenizer_directory, directory)
    (directory / "config.json").write_text("{}")
    if LlamaCpp.missing():
        pytest.skip("the worker asks for its server first")
    engine = local.start_engine(
        Deployment("llamacpp", str(directory), "m", "F16", {}), temporary / "log", names=("model",)
    )
    with pytest.raises(EngineError, match=r"llamacpp cannot load .*model\.gguf"):
        engine.wait_healthy(60)
    assert not list(temporary.glob("pennyweight-llama-*"))
