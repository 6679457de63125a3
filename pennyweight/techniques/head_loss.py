"""The divergence of two heads' distributions without ever holding all logits, which are the largest tensor of a small
model's training run: a few positions at a time, whose gradient is taken at once (as Hsu et al. 2024,
arxiv.org/abs/2410.10989, do for cross-entropy)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pennyweight.techniques.divergence import divergence

if TYPE_CHECKING:
    import torch

PIECE = 256  # positions whose logits are held at once


def head_divergence(
    ours: torch.Tensor,
    weight: torch.Tensor,
    theirs: torch.Tensor,
    other: torch.Tensor,
    mix: dict[str, float],
    *,
    low: bool = False,
) -> torch.Tensor:
    """Mean divergence over positions. `ours`, `theirs`: states [positions, hidden]; `weight`, `other`: the heads
    [tokens, hidden], of the same tokens. `low`: the student's side multiplies in bfloat16."""
    import torch

    kind = torch.bfloat16 if low else torch.float32
    kept = other.detach()
    grad_states, grad_weight = torch.empty_like(ours), torch.zeros_like(weight) if weight.requires_grad else None
    head, total = weight.detach().to(kind), 0.0
    with torch.no_grad():
        for start in range(0, len(ours), PIECE):
            rows = slice(start, start + PIECE)
            wanted = (theirs[rows].to(kept.dtype) @ kept.T).float().log_softmax(-1)
            states = ours[rows].detach().to(kind)
            logits = (states @ head.T).float().requires_grad_()
            with torch.enable_grad():
                found = divergence(logits.log_softmax(-1), wanted, mix) * (len(states) / len(ours))
            grad = torch.autograd.grad(found, logits)[0].to(kind)
            grad_states[rows] = (grad @ head).to(ours.dtype)
            if grad_weight is not None:
                grad_weight += (grad.T @ states).to(weight.dtype)
            total += float(found.detach())
    made: torch.Tensor = _taken().apply(ours, weight, torch.tensor(total, device=ours.device), grad_states, grad_weight)
    return made


def _taken() -> Any:
    """Hands a loss whose gradients are known already to autograd."""
    import torch

    class Taken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, _states: Any, _weight: Any, loss: Any, grad_states: Any, grad_weight: Any) -> Any:
            ctx.learns_head = grad_weight is not None
            ctx.save_for_backward(grad_states, *([grad_weight] if ctx.learns_head else []))
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, *outer: Any) -> Any:
            states, *weight = ctx.saved_tensors
            return outer[0] * states, outer[0] * weight[0] if weight else None, None, None, None

    return Taken
