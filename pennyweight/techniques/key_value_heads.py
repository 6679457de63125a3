"""Fewer key-value heads: neighbours are averaged into one (Ainslie et al. 2023, arxiv.org/abs/2305.13245). The cache
needs fewer bytes per token in the same ratio. It costs much quality until it is distilled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pennyweight.checks.architecture import check_made
from pennyweight.errors import ModelError, UsageError
from pennyweight.model import Model
from pennyweight.shape import ModelShape
from pennyweight.techniques.base import Material, Technique, whole_number
from pennyweight.techniques.layout import KEY, QUERY_KEY_VALUE, Layout, changeable

if TYPE_CHECKING:
    import torch


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
        layout = Layout.of_model(model)
        layout.refuse_unknown("attn")
        if not any(axes[:1] in ((KEY,), (QUERY_KEY_VALUE,)) for axes in layout.axes.values()):
            raise ModelError(f"{model.name} is a {shape.model_type} model: its key-value heads were not found.")
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from pennyweight.weights import Weights, rewrite

        config = Model.config_of(source)
        shape = changeable(config)
        layout = Layout.of(shape, Weights(source).shapes)

        def share(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
            axis = layout.axes[name][:1]
            if axis == (KEY,):
                return [(name, pooled(tensor, shape, self.groups))]
            return [(name, pooled_stack(tensor, shape, self.groups) if axis == (QUERY_KEY_VALUE,) else tensor)]

        changed = {**config, "num_key_value_heads": self.groups, "head_dim": shape.head_width}
        rewrite(source, target, changed, share)
        check_made(target)


def pooled(tensor: torch.Tensor, shape: ModelShape, groups: int) -> torch.Tensor:
    """Rows [old groups * head width, …] -> [groups * head width, …], the mean of neighbouring heads."""
    rest = tensor.shape[1:]
    heads = tensor.reshape(groups, shape.num_key_value_heads // groups, shape.head_width, *rest)
    return heads.float().mean(1).reshape(groups * shape.head_width, *rest).to(tensor.dtype)


def pooled_stack(tensor: torch.Tensor, shape: ModelShape, groups: int) -> torch.Tensor:
    """The same where queries, keys and values are stacked in one matrix."""
    import torch

    keys = shape.num_key_value_heads * shape.head_width
    queries, *both = torch.split(tensor, [shape.heads * shape.head_width, keys, keys])
    return torch.cat([queries, *(pooled(part, shape, groups) for part in both)])
