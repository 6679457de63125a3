"""Fewer key-value heads: neighbours are averaged into one (Ainslie et al. 2023, arxiv.org/abs/2305.13245). The cache
needs fewer bytes per token in the same ratio. It costs much quality until it is distilled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pennyweight.errors import UsageError
from pennyweight.model import Model
from pennyweight.shape import ModelShape
from pennyweight.techniques.base import Material, Technique, whole_number
from pennyweight.techniques.layout import changeable, check_tensors, split

if TYPE_CHECKING:
    import torch

SHARED = ("self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class KeyValueHeads(Technique):
    """Keep `groups` key-value heads."""

    groups: int = 1

    name: ClassVar[str] = "key_value_heads"
    search_name: ClassVar[str] = "kv-heads"
    default_amount: ClassVar[str] = "1"

    @classmethod
    def check_amount(cls, amount: str) -> None:
        whole_number(amount, cls.search_name, least=1)

    @classmethod
    def from_amount(cls, amount: str, material: Material) -> Technique:
        del material
        return KeyValueHeads(int(amount))

    @classmethod
    def predict_config(cls, config: dict[str, Any], amount: str) -> dict[str, Any]:
        return {**config, "num_key_value_heads": int(amount)}

    def settings(self) -> dict[str, Any]:
        return {"groups": self.groups}

    def result_kind(self, model: Model) -> tuple[str, str]:
        shape = changeable(model.config)
        divisors = [n for n in range(1, shape.num_key_value_heads) if shape.num_key_value_heads % n == 0]
        if self.groups not in divisors:
            possible = ", ".join(map(str, divisors)) or "none"
            raise UsageError(
                f"--heads {self.groups} does not divide the {shape.num_key_value_heads} key-value heads of "
                f"{model.name} into equal shares (possible: {possible})."
            )
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from pennyweight.weights import Weights, rewrite

        config = Model.config_of(source)
        shape = changeable(config)
        check_tensors(Weights(source))

        def share(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
            stem = split(name)[1].rsplit(".", 1)[0]
            return [(name, pooled(tensor, shape, self.groups) if stem in SHARED else tensor)]

        changed = {**config, "num_key_value_heads": self.groups, "head_dim": shape.head_width}
        rewrite(source, target, changed, share)


def pooled(tensor: torch.Tensor, shape: ModelShape, groups: int) -> torch.Tensor:
    """Rows [old groups * head width, …] -> [groups * head width, …], the mean of neighbouring heads."""
    rest = tensor.shape[1:]
    heads = tensor.reshape(groups, shape.num_key_value_heads // groups, shape.head_width, *rest)
    return heads.float().mean(1).reshape(groups * shape.head_width, *rest).to(tensor.dtype)
