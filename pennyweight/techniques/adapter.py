"""A LoRA adapter merged into its model: W + scale * B A (Hu et al. 2021, arxiv.org/abs/2106.09685), in PEFT's layout
(huggingface.co/docs/peft, "Checkpoint format"). Afterwards it is a model as any other, for every engine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pennyweight.checkpoint import ADAPTER_CONFIG, file_checksum
from pennyweight.checks.finite import check_finite
from pennyweight.checks.safetensors_files import read_header, read_json
from pennyweight.errors import ModelError
from pennyweight.model import Model
from pennyweight.techniques.base import Technique

if TYPE_CHECKING:
    import torch

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
PLAIN = {"use_dora": False, "use_qalora": False, "lora_bias": False, "bias": "none", "fan_in_fan_out": False}
PART = re.compile(r"(.+)\.(lora_A|lora_B)(?:\.default)?\.weight")


@dataclass(frozen=True)
class MergeAdapter(Technique):
    """The adapter in `directory`, an absolute path."""

    directory: str

    name: ClassVar[str] = "adapter"

    def settings(self) -> dict[str, Any]:
        place = Path(self.directory)
        return {name: file_checksum(place / name) for name in (ADAPTER_CONFIG, WEIGHTS)}

    def result_kind(self, model: Model) -> tuple[str, str]:
        if model.format != "huggingface":
            raise ModelError(
                f"{model.path} is {model.format}: an adapter is merged into the full-precision checkpoint."
            )
        check_adapter(Path(self.directory), model)
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from safetensors.torch import load_file

        from pennyweight.weights import rewrite

        config = read_json(Path(self.directory) / ADAPTER_CONFIG, "copy it again")
        tensors = load_file(Path(self.directory) / WEIGHTS)
        pairs, replaced = _sorted_out(tensors)

        def merged(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
            module = name.removesuffix(".weight")
            if name in replaced:
                return [(name, replaced[name].to(tensor.dtype))]
            if module in pairs:
                down, up = pairs[module]
                added = (up.float() @ down.float()) * scale_of(config, module, down.shape[0])
                return [(name, (tensor.float() + added).to(tensor.dtype))]
            return [(name, tensor)]

        rewrite(source, target, Model.config_of(source), merged)


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) (Kalajdzievski 2023, arxiv.org/abs/2312.03732), by adapter_config.json."""
    alphas: Mapping[str, float] = config.get("alpha_pattern") or {}
    own = (alpha for key, alpha in alphas.items() if re.match(rf"(.*\.)?({key})$", module))
    alpha = next(own, config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def check_adapter(directory: Path, model: Model) -> None:
    """Raise `ModelError` where merging would leave a part of the adapter out, or it belongs to another model."""
    from pennyweight.weights import Weights

    config = read_json(directory / ADAPTER_CONFIG, "give a directory of a LoRA adapter as PEFT saves it")
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{directory} is an adapter of type {config.get('peft_type')}: only LORA can be merged.")
    for name, plain in PLAIN.items():
        if config.get(name, plain) not in (plain, None):
            raise ModelError(f"{directory} uses {name}={json.dumps(config[name])}: merge it with PEFT itself first.")
    if not isinstance(config.get("lora_alpha"), (int, float)):
        raise ModelError(f"{directory}/{ADAPTER_CONFIG} gives no lora_alpha: copy it again.")
    file = directory / WEIGHTS
    if not file.exists():
        raise ModelError(f"{directory} has no {WEIGHTS}: copy the whole adapter (safetensors are needed).")
    check_finite(file)
    shapes = {name: tuple(shape) for name, (_, shape) in read_header(file).items()}
    pairs, replaced = _sorted_out(shapes)
    known = Weights(model.path).shapes
    for module, (down, up) in pairs.items():
        wanted = known.get(f"{module}.weight")
        if wanted != (up[0], down[1]) or down[0] != up[1]:
            raise ModelError(
                f"{directory} changes {module} by {up[0]} x {down[1]}, and {model.name} has "
                f"{'no such tensor' if wanted is None else ' x '.join(map(str, wanted))}: give the model that it was "
                f"trained on ({config.get('base_model_name_or_path') or 'not named'})."
            )
    for name, shape in replaced.items():
        if known.get(name) != shape:
            raise ModelError(
                f"{directory} replaces {name}, which {model.name} has not in this shape: give its own model."
            )


def _sorted_out(tensors: Mapping[str, Any]) -> tuple[dict[str, tuple[Any, Any]], dict[str, Any]]:
    """(module -> (A, B), tensor name -> what replaces it), from PEFT's names."""
    halves: dict[str, dict[str, Any]] = {}
    replaced = {}
    for name, value in tensors.items():
        plain = name.removeprefix(PREFIX)
        part = PART.fullmatch(plain)
        if part:
            halves.setdefault(part[1], {})[part[2]] = value
        elif "lora_" in plain:
            raise ModelError(
                f"The adapter's tensor {name} is of a kind that is not known here: merge it with PEFT first."
            )
        else:
            replaced[plain.replace(".modules_to_save.default", "").replace(".modules_to_save", "")] = value
    lone = [module for module, half in halves.items() if len(half) != 2]
    if lone:
        raise ModelError(f"The adapter holds only half of the change of {lone[0]}: copy it again.")
    return {module: (half["lora_A"], half["lora_B"]) for module, half in halves.items()}, replaced
