"""Safetensors files: which ones make up a checkpoint, and what their headers promise, held against their sizes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.errors import ModelError

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


def weight_files(path: Path) -> list[Path]:
    """The safetensors shards that the index names, or the single file."""
    index = path / INDEX
    if index.exists():
        weight_map = read_json(index, "copy it again").get("weight_map")
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


@dataclass(frozen=True)
class Place:
    """A tensor's type and shape, and its first byte and the one after its last in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Tensor name -> (dtype, shape), with the sizes held against the file's own."""
    return {name: (place.dtype, list(place.shape)) for name, place in read_places(file).items()}


def read_places(file: Path) -> dict[str, Place]:
    """Tensor name -> where it is, with the sizes held against the file's own.

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
        places = {name: _place(file, name, entry, 8 + length) for name, entry in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(f"{file} has a damaged header: copy it again.") from None
    if not places:
        raise ModelError(f"{file} holds no tensors: copy it again.")
    end = max(place.end for place in places.values())
    if size != end:
        raise ModelError(f"{file} is {size} bytes where its header promises {end}: copy it again.")
    return places


def _place(file: Path, name: str, entry: Mapping[str, Any], data: int) -> Place:
    begin, stop = entry["data_offsets"]
    expected = math.prod(entry["shape"]) * DTYPE_BYTES.get(entry["dtype"], 0)
    if expected and stop - begin != expected:
        raise ModelError(
            f"{file}: tensor {name} has {stop - begin} bytes where its shape needs {expected}: copy it again."
        )
    return Place(str(entry["dtype"]), tuple(entry["shape"]), data + int(begin), data + int(stop))


def weights_dtype(path: Path) -> str:
    """The dtype that most of the weights have, as a scheme name."""
    counts: dict[str, int] = {}
    for shard in weight_files(path):
        for dtype, shape in read_header(shard).values():
            counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    return max(counts, key=lambda dtype: counts[dtype])


def read_json(path: Path, mend: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: {mend}.") from None
    except ValueError as error:
        raise ModelError(f"{path} is no JSON ({error}): {mend}.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object: {mend}.")
    return value
