"""Distillation (Hinton et al. 2015, arxiv.org/abs/1503.02531): the student learns the teacher's distribution on texts
that the teacher wrote after the user's prompts, or on its own ones (on-policy: Agarwal et al. 2023,
arxiv.org/abs/2306.13649).

The texts and the work directory beside the artifact outlive a kill: the Trainer's states are found there again, and the
run goes on to the same result.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.errors import ModelError, UsageError
from pennyweight.model import Model
from pennyweight.techniques import Technique, digest, rounding
from pennyweight.techniques.divergence import parse_mix
from pennyweight.techniques.layout import Layout

TEXTS = "continuations"  # folder of what teachers wrote, beside the artifacts


@dataclass(frozen=True)
class Distill(Technique):
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
    train_embeddings: bool = False  # and the head: in short runs they forget more than they learn (docs/log.md)
    mixed_precision: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0

    name: ClassVar[str] = "distill"
    revision: ClassVar[int] = 3  # hidden states matched block by block; embeddings kept
    packages: ClassVar[tuple[str, ...]] = ("transformers", "accelerate", "torch")

    def __post_init__(self) -> None:
        parse_mix(self.divergence)
        if self.round_to and self.round_to not in rounding.SCHEMES:
            raise UsageError(f"--round-to {self.round_to!r} is unknown: use {', '.join(rounding.SCHEMES)}.")
        if self.steps < 1 or self.batch < 1 or self.continuations < 1 or self.accumulate < 1 or self.length < 8:
            raise UsageError("--steps, --batch, --accumulate and --continuations must be 1 or more, --length 8.")
        for word, value in (("--temperature", self.temperature), ("--learning-rate", self.learning_rate)):
            if not 0 < value < math.inf:
                raise UsageError(f"{word} {value} is not possible: it must be above 0.")
        if not 0 <= self.hidden < math.inf:
            raise UsageError(f"--hidden {self.hidden} is no weight: use 0 or more.")
        if not 0 <= self.on_policy <= 1:
            raise UsageError(f"--on-policy {self.on_policy} is no share: use 0 to 1.")

    def settings(self) -> dict[str, Any]:
        found = {k: v for k, v in self.__dict__.items() if k not in ("teacher", "prompts")}
        return {**found, "prompts": digest(self.prompts)}

    def result_kind(self, model: Model) -> tuple[str, str]:
        student, teacher = Layout.of(model.config), Layout.of(Model.config_of(Path(self.teacher)))
        if self.hidden and student.hidden != teacher.hidden:
            raise UsageError(
                f"--hidden matches states of one width: the student has {student.hidden}, the teacher {teacher.hidden}."
            )
        from pennyweight.techniques.continuations import FEWEST_PROMPTS, shared_tokens, short_enough

        if len(self.prompts) < FEWEST_PROMPTS:
            raise UsageError(
                f"{len(self.prompts)} prompts are too few to distil on: {FEWEST_PROMPTS} or more are needed."
            )
        short_enough(self, Path(self.teacher))
        shared_tokens(model.path, Path(self.teacher))
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from pennyweight.techniques import continuations, training
        from pennyweight.weights import rewrite

        work = target.with_suffix(".work")
        work.mkdir(exist_ok=True)
        texts = continuations.written(self, source, target.parent / TEXTS)
        state = training.train(self, source, work, texts)

        def learnt(name: str, tensor: Any) -> list[tuple[str, Any]]:
            if name not in state:
                raise ModelError(f"The trained model has no tensor {name}.")
            return [(name, state[name].to(tensor.dtype))]

        rewrite(source, target, Model.config_of(source), learnt)
        shutil.copyfile(work / "losses.json", target / "losses.json")
        shutil.rmtree(work)
