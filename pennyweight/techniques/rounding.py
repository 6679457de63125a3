"""Rounding to a scheme's grid, so that training can see what quantization will do (straight-through, as Bengio et al.
2013, arxiv.org/abs/1308.3432). Q4_0 and Q8_0 as ggml rounds them to nearest; W4A16 symmetric in groups of 32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pennyweight.errors import UsageError

if TYPE_CHECKING:
    import torch

BLOCK = 32
SCHEMES = ("Q4_0", "Q8_0", "W4A16")


def rounded(weight: torch.Tensor, scheme: str) -> torch.Tensor:
    """`weight` [rows, columns] with every block of 32 in a row on its grid; the same type and shape."""
    import torch

    blocks = weight.float().reshape(-1, BLOCK)
    if scheme == "Q4_0":
        largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
        step = largest / -8
        levels = torch.floor(blocks * _inverse(step) + 8.5).clamp(0, 15) - 8
    elif scheme == "Q8_0":
        step = blocks.abs().amax(1, keepdim=True) / 127
        levels = torch.round(blocks * _inverse(step))
    else:
        step = blocks.abs().amax(1, keepdim=True) / 7.5
        levels = torch.round(blocks * _inverse(step)).clamp(-8, 7)
    return (levels * step.half().float()).reshape(weight.shape).to(weight.dtype)


def _inverse(step: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.where(step == 0, torch.zeros_like(step), 1 / step)


def train_through(model: Any, scheme: str) -> None:
    """From now on every linear layer inside the blocks multiplies by its rounded weight, while the gradient goes to the
    weight itself. The layers are saved as before."""
    import torch

    class RoundedLinear(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            weight = self.weight + (rounded(self.weight.detach(), scheme) - self.weight).detach()
            return torch.nn.functional.linear(input, weight, self.bias)

    for name, layer in model.model.layers.named_modules():
        if isinstance(layer, torch.nn.Linear):
            if layer.in_features % BLOCK:
                raise UsageError(
                    f"{name} is {layer.in_features} wide, no multiple of {BLOCK}: {scheme} cannot hold this model."
                )
            layer.__class__ = RoundedLinear
