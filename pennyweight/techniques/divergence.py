"""How far the student's distribution is from the teacher's, in nats per token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pennyweight.errors import UsageError

if TYPE_CHECKING:
    import torch

NAMES = ("forward", "reverse", "jensen-shannon")


def parse_mix(text: str) -> dict[str, float]:
    """`forward` or `forward:0.7,reverse:0.3` -> weight by name."""
    mix = {}
    for part in text.split(","):
        name, colon, weight = part.strip().partition(":")
        try:
            mix[name] = float(weight) if colon else 1.0
        except ValueError:
            mix[name] = -1.0
        if name not in NAMES or not 0 < mix[name] < math.inf:
            raise UsageError(
                f"--divergence {part.strip()!r} is unknown: use {', '.join(NAMES)}, or forward:0.7,reverse:0.3."
            )
    return mix


def divergence(student: torch.Tensor, teacher: torch.Tensor, mix: dict[str, float]) -> torch.Tensor:
    """Mean over positions of the weighted divergences. Both are log-probabilities [positions, tokens].

    forward: KL(teacher || student); reverse: KL(student || teacher); jensen-shannon: the mean of both against their
    mixture.
    """
    import torch

    total = torch.zeros((), device=student.device)
    for name, weight in mix.items():
        if name == "forward":
            found = _kl(teacher, student)
        elif name == "reverse":
            found = _kl(student, teacher)
        else:
            middle = torch.logaddexp(student, teacher) - math.log(2)
            found = (_kl(teacher, middle) + _kl(student, middle)) / 2
        total = total + weight * found
    return total


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(-1).mean()


def states_distance(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean squared distance as a share of the teacher's mean square, each [positions, hidden]: of what each block
    makes where both have as many blocks (as Jiao et al. 2020, arxiv.org/abs/1909.10351, match them), else of the last.
    """
    import torch

    depth = len(teacher) - 1 if len(student) == len(teacher) else 1
    pairs = zip(student[-depth:], teacher[-depth:], strict=True)
    return torch.stack([(a - b).float().square().mean() / b.float().square().mean() for a, b in pairs]).mean()
