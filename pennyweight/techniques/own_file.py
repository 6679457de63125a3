"""The user's own GGUF file as it is, with the config and the tokenizer that were read from it: an engine for GGUF
serves it without quantizing again what was de-quantized."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.checkpoint import file_checksum
from pennyweight.checks.gguf_file import check_gguf, read_gguf_header
from pennyweight.errors import ModelError
from pennyweight.model import Model
from pennyweight.techniques.base import Technique

FILE_TYPES = {1: "F16", 2: "Q4_0", 7: "Q8_0", 15: "Q4_K_M", 32: "BF16"}  # llama.cpp's enum llama_ftype
KEPT = (".json", ".jinja", ".model")
INDEX = "model.safetensors.index.json"  # of weights that are not here


@dataclass(frozen=True)
class OwnFile(Technique):
    """`file` is the path, `sha256` its checksum."""

    file: str
    sha256: str

    name: ClassVar[str] = "own file"

    @staticmethod
    def of(file: Path) -> OwnFile:
        return OwnFile(str(file), file_checksum(file))

    def settings(self) -> dict[str, Any]:
        return {"sha256": self.sha256}

    def result_kind(self, model: Model) -> tuple[str, str]:
        del model
        scheme = scheme_of(Path(self.file))
        if scheme is None:
            raise ModelError(f"{self.file} is in a scheme that is not served as it is: it is converted instead.")
        return "gguf", scheme

    def build(self, source: Path, target: Path) -> None:
        for file in source.iterdir():
            if file.suffix in KEPT and file.name != INDEX:
                shutil.copyfile(file, target / file.name)
        shutil.copyfile(self.file, target / "model.gguf")  # no link: the user's file may be edited in place


def scheme_of(file: Path) -> str | None:
    """The scheme of a GGUF file in one part; None for others, and for schemes that we do not make."""
    if len(check_gguf(file)) > 1:
        return None
    return FILE_TYPES.get(int(read_gguf_header(file).metadata.get("general.file_type", -1)))
