"""GGUF files: their header, read in milliseconds, and what it says that would end badly later.

Layout: github.com/ggml-org/ggml, docs/gguf.md. The gguf package's own reader takes seconds for a large vocabulary,
because it makes an array of each word.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pennyweight.errors import ModelError

VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
KEPT = 64  # values of an array that are kept; of longer ones, only the count is
LONGEST_NAME = 1 << 16
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class Tensor:
    """`kind` is GGML's number of the type; `offset` counts from the start of the file."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """`metadata` holds an `int`, the length, in place of a long array."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def of_architecture(self, name: str) -> Any:
        """The value of `{architecture}.{name}`, or None."""
        return self.metadata.get(f"{self.architecture}.{name}")


def read_gguf_header(file: Path) -> Header:
    """Raises `ModelError` for a file that is none, is damaged, or of a version or type that is not known here."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{file} is no GGUF file (its first bytes are others): give another file.")
        try:
            (version,) = _read(stream, "I")
            if version not in VERSIONS:
                raise ModelError(f"{file} is GGUF of version {version}, and 2 and 3 are known here: convert it again.")
            tensor_count, value_count = _read(stream, "QQ")
            metadata = {_text(stream): _value(stream, *_read(stream, "I")) for _ in range(value_count)}
            listed = [_tensor(stream) for _ in range(tensor_count)]
            alignment = int(metadata.get("general.alignment", 32))
            begin = -(-stream.tell() // alignment) * alignment
        except (struct.error, ValueError, OverflowError, MemoryError, TypeError, ZeroDivisionError):
            raise ModelError(f"{file} is cut short or damaged: copy it again.") from None
    return Header(metadata, {name: Tensor(shape, kind, begin + offset) for name, shape, kind, offset in listed})


def check_gguf(file: Path) -> list[Path]:
    """Every part of the model in this file, itself where it is whole. Raises `ModelError` for what could not be read
    to its end, or only by filling something in."""
    first = read_gguf_header(file)
    files = _parts(file, first)
    headers = [first if part == file else read_gguf_header(part) for part in files]
    for part, header in zip(files, headers, strict=True):
        _check_whole(part, header)
    names = [name for header in headers for name in header.tensors]
    if not names:
        raise ModelError(f"{file} holds a vocabulary and no weights: give the model's own file.")
    promised = first.metadata.get("split.tensors.count", len(names))
    if len(set(names)) != promised:
        raise ModelError(f"{file} and its parts hold {len(set(names))} tensors of {promised}: copy all parts again.")
    return files


def _parts(file: Path, header: Header) -> list[Path]:
    count = int(header.metadata.get("split.count", 0))
    named = PART.fullmatch(file.name)
    if count <= 1:
        return [file]
    if named is None:
        raise ModelError(
            f"{file} is a part of {count} and is not called so: name the parts NAME-00001-of-{count:05d}.gguf and on."
        )
    files = [file.with_name(f"{named[1]}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    missing = [part.name for part in files if not part.exists()]
    if missing:
        raise ModelError(f"{file} is a part of {count}, and {', '.join(missing[:3])} is not beside it: copy all parts.")
    return files


def _check_whole(file: Path, header: Header) -> None:
    import gguf

    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    length, end = file.stat().st_size, 0
    for name, tensor in header.tensors.items():
        if tensor.kind not in sizes:
            raise ModelError(f"{file}: the tensor {name} is of type {tensor.kind}, which is unknown here: convert it.")
        block, size = sizes[tensor.kind]
        end = max(end, tensor.offset + math.prod(tensor.shape) // block * size)
    if end > length:
        raise ModelError(f"{file} is cut short ({length} of {end} bytes): copy it again.")


def _tensor(stream: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
    name = _text(stream)
    (dimensions,) = _read(stream, "I")
    if dimensions > 8:
        raise ValueError(dimensions)
    shape = _read(stream, f"{dimensions}Q")
    kind, offset = _read(stream, "IQ")
    return name, tuple(shape), kind, offset


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _text(stream, limit=1 << 30)
    if kind != ARRAY:
        return _read(stream, SCALARS[kind] if kind in SCALARS else _unknown(kind))[0]
    inner, count = _read(stream, "IQ")
    if inner in SCALARS:
        width = struct.calcsize("<" + SCALARS[inner])
        if count <= KEPT:
            return list(_read(stream, f"{count}{SCALARS[inner]}"))
        _skip(stream, width * count)
        return int(count)
    if inner != STRING:
        _unknown(inner)
    words = []
    for _ in range(count):
        (length,) = _read(stream, "Q")
        if count <= KEPT:
            words.append(_exactly(stream, length).decode("utf-8", "replace"))
        else:
            _skip(stream, length)
    return words if count <= KEPT else int(count)


def _unknown(kind: int) -> str:
    raise ValueError(f"type {kind}")


def _text(stream: BinaryIO, limit: int = LONGEST_NAME) -> str:
    (length,) = _read(stream, "Q")
    if length > limit:
        raise ValueError(length)
    return _exactly(stream, length).decode("utf-8", "replace")


def _skip(stream: BinaryIO, count: int) -> None:
    stream.seek(count, 1)


def _read(stream: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack("<" + form, _exactly(stream, struct.calcsize("<" + form)))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise ValueError("the file ends")
    return data
