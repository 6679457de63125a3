"""A Hugging Face checkpoint's tensors, one at a time in and shard by shard out, whatever the model's size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pennyweight import checkpoint
from pennyweight.checks.safetensors_files import INDEX, read_header, weight_files
from pennyweight.errors import ModelError

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 2 << 30


class Weights:
    """The tensors of the checkpoint in `directory`, by name; each is read only when it is accessed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in weight_files(directory):
            for name, (_, shape) in read_header(file).items():
                self._files[name] = file
                self.shapes[name] = tuple(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        if name not in self._files:
            raise ModelError(f"{self.directory} has no tensor {name}: copy the whole checkpoint.")
        with safe_open(self._files[name], "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


Change = Callable[[str, "torch.Tensor"], Iterable[tuple[str, "torch.Tensor"]]]


def rewrite(
    source: Path, target: Path, config: Mapping[str, Any], change: Change, shard_bytes: int = SHARD_BYTES
) -> None:
    """The checkpoint in `source` with every tensor passed through `change` (which may rename or drop it) and another
    config, into the empty directory `target`."""
    weights = Weights(source)
    write(target, (made for name in weights for made in change(name, weights[name])), shard_bytes)
    (target / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n")
    checkpoint.copy_tokenizer(source, target)


def write(target: Path, tensors: Iterable[tuple[str, torch.Tensor]], shard_bytes: int = SHARD_BYTES) -> None:
    """Write shards of at most `shard_bytes` (a single tensor may be larger), with an index if there are several."""
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    total = 0

    def flush() -> None:
        save_file(held, target / f"shard-{len(shards)}.safetensors", {"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > shard_bytes:
            flush()
        held[name] = tensor.contiguous().clone()  # a view would carry its whole storage into the file
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        (target / "shard-0.safetensors").rename(target / "model.safetensors")
        return
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (target / f"shard-{number}.safetensors").rename(target / file)
        weight_map.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n")
