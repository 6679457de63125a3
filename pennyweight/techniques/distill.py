"""Distillation (Hinton et al. 2015, arxiv.org/abs/1503.02531): the student learns the teacher's distribution on texts
that the teacher wrote after the user's prompts, or on texts that it writes itself (on-policy: Agarwal et al. 2023,
arxiv.org/abs/2306.13649).

The texts and the Trainer's checkpoints are kept beside the artifact, so that a killed run resumes and gives the same
result.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.errors import ModelError, UsageError
from pennyweight.model import Model
from pennyweight.techniques import continuations
from pennyweight.techniques.base import Material, Technique, digest, whole_number
from pennyweight.techniques.distill_settings import DistillSettings
from pennyweight.techniques.layout import changeable

TEXTS = "continuations"  # folder of the teachers' texts, beside the artifacts


@dataclass(frozen=True)
class Distill(DistillSettings):
    """The student's weights after learning from `teacher`, a directory."""

    name: ClassVar[str] = "distill"
    search_name: ClassVar[str] = "distill"
    default_amount: ClassVar[str] = "200"
    revision: ClassVar[int] = 3  # hidden states matched block by block; embeddings kept
    packages: ClassVar[tuple[str, ...]] = ("transformers", "accelerate", "torch")

    @classmethod
    def check_amount(cls, amount: str) -> None:
        whole_number(amount, cls.search_name, least=1)

    @classmethod
    def from_amount(cls, amount: str, material: Material) -> Technique:
        return Distill(
            str(material.teacher.path),
            material.teacher.id,
            material.prompts,
            steps=int(amount),
            batch=4,
            mixed_precision=True,
            learning_rate=1e-4,
            temperature=0.7,
            length=384,
        )

    def settings(self) -> dict[str, Any]:
        found = {k: v for k, v in self.__dict__.items() if k not in ("teacher", "prompts")}
        return {**found, "prompts": digest(self.prompts)}

    def result_kind(self, model: Model) -> tuple[str, str]:
        student, teacher = changeable(model.config), changeable(Model.config_of(Path(self.teacher)))
        if self.hidden and student.hidden_size != teacher.hidden_size:
            raise UsageError(
                f"--hidden matches states of one width: the student has {student.hidden_size}, the teacher "
                f"{teacher.hidden_size}."
            )
        if len(self.prompts) < continuations.MIN_PROMPTS:
            raise UsageError(
                f"{len(self.prompts)} prompts are too few to distil on: {continuations.MIN_PROMPTS} or more are needed."
            )
        continuations.short_enough(self, Path(self.teacher))
        continuations.shared_tokens(model.path, Path(self.teacher))
        return "huggingface", model.scheme

    def build(self, source: Path, target: Path) -> None:
        from pennyweight.techniques import training
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
