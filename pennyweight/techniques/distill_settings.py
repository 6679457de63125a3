"""The settings of distillation, checked when they are made. distill.py is the technique; continuations.py and
training.py do its work and read only this file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pennyweight.errors import UsageError
from pennyweight.techniques import rounding
from pennyweight.techniques.base import Technique
from pennyweight.techniques.divergence import parse_mix


@dataclass(frozen=True)
class DistillSettings(Technique):
    """`prompts` are whole texts that end where an answer begins ("" lets the teacher start from nothing)."""

    teacher: str = ""
    teacher_id: str = ""
    prompts: tuple[str, ...] = ()
    continuations: int = 4  # that the teacher writes after each prompt
    temperature: float = 1.0
    length: int = 256  # tokens of prompt and continuation
    steps: int = 200
    batch: int = 8
    accumulate: int = 1
    learning_rate: float = 2e-4
    divergence: str = "forward"  # or reverse, jensen-shannon, or a mix: forward:0.7,reverse:0.3
    hidden: float = 0.0  # weight of matching hidden states, block by block
    on_policy: float = 0.0  # share of the steps on the student's own continuations
    round_to: str = ""  # train through the rounding of this scheme
    train_embeddings: bool = (
        False  # and the head: in short runs they forget more than they learn (docs/log/techniques.md)
    )
    mixed_precision: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        parse_mix(self.divergence)
        if self.round_to and self.round_to not in rounding.SCHEMES:
            raise UsageError(f"--round-to {self.round_to!r} is unknown: use {', '.join(rounding.SCHEMES)}.")
        if self.steps < 1 or self.batch < 1 or self.continuations < 1 or self.accumulate < 1 or self.length < 8:
            raise UsageError("--steps, --batch, --accumulate and --continuations must be 1 or more, --length 8 and up.")
        for word, value in (("--temperature", self.temperature), ("--learning-rate", self.learning_rate)):
            if not 0 < value < math.inf:
                raise UsageError(f"{word} {value} is not possible: it must be above 0.")
        if not 0 <= self.hidden < math.inf:
            raise UsageError(f"--hidden {self.hidden} is not a weight: use 0 or more.")
        if not 0 <= self.on_policy <= 1:
            raise UsageError(f"--on-policy {self.on_policy} is not a share: use 0 to 1.")
