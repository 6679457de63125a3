"""Distillation's training run: the transformers Trainer with the teacher beside it. Runs in the job process."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pennyweight.errors import ModelError
from pennyweight.techniques import rounding
from pennyweight.techniques.base import progress
from pennyweight.techniques.continuations import Text, generate, pad, shared_tokens
from pennyweight.techniques.divergence import parse_mix, states_distance
from pennyweight.techniques.head_loss import head_divergence

if TYPE_CHECKING:
    import torch

    from pennyweight.techniques.distill_settings import DistillSettings

SAVE_SECONDS = 60.0
CHECKPOINTS = "states"
STATE_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def train(settings: DistillSettings, source: Path, work: Path, texts: Sequence[Text]) -> dict[str, torch.Tensor]:
    """The student's weights after all steps, resuming an interrupted run."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(settings.seed)
    student = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    teacher = AutoModelForCausalLM.from_pretrained(settings.teacher, dtype="auto").eval()
    if teacher.dtype == torch.float16:
        teacher = teacher.float()
    for table in (student.get_input_embeddings(), student.get_output_embeddings()):
        table.weight.requires_grad_(settings.train_embeddings)
    if settings.round_to:
        rounding.train_through(student, settings.round_to)
    trainer = _trainer(settings, student, teacher, texts, shared_tokens(source, Path(settings.teacher)), work)
    trainer.train(resume_from_checkpoint=last_state(work))
    (work / "losses.json").write_text(json.dumps(trainer.losses()))
    return dict(student.state_dict())


def last_state(work: Path) -> str | None:
    """The newest state that was written whole; the Trainer writes trainer_state.json last."""
    states = sorted((work / CHECKPOINTS).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True)
    for state in states:
        if all((state / name).exists() and (state / name).stat().st_size for name in STATE_FILES):
            return str(state)
        shutil.rmtree(state)  # interrupted while it was written
    return None


def _trainer(
    settings: DistillSettings,
    student: Any,
    teacher: Any,
    texts: Sequence[Text],
    kept: list[tuple[int, int]] | None,
    work: Path,
) -> Any:
    import torch
    from transformers import Trainer, TrainingArguments

    mix = parse_mix(settings.divergence)
    ids: Shared | None = None

    class Distiller(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            del return_outputs
            batch = dict(inputs)
            if settings.on_policy and _own_turn(self.state.global_step, settings.on_policy):
                batch = own_texts(student, batch, settings)
            learn = batch.pop("learn").bool()
            ours = [layer[learn] for layer in states(model, batch)]
            with torch.no_grad():
                read = batch if ids is None else {**batch, "input_ids": ids.read[batch["input_ids"]]}
                theirs = [layer[learn] for layer in states(teacher, read)]
            own, other = student.lm_head.weight, teacher.lm_head.weight
            if ids is not None:
                own, other = own[ids.own], other[ids.other]
            loss = head_divergence(ours[-1], own, theirs[-1], other, mix, low=settings.mixed_precision)
            if settings.hidden:
                loss = loss + settings.hidden * states_distance(ours, theirs)
            if not math.isfinite(float(loss.detach())):
                raise ModelError(
                    f"The loss is not finite at step {self.state.global_step + 1}: lower --learning-rate. The last "
                    f"good state is kept in {work / CHECKPOINTS}."
                )
            return loss

        def losses(self) -> list[tuple[int, float]]:
            return [(row["step"], row["loss"]) for row in self.state.log_history if "loss" in row]

    arguments = TrainingArguments(
        output_dir=str(work / CHECKPOINTS),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, settings.steps // 20),
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=settings.mixed_precision,
        activation_checkpointing=settings.gradient_checkpointing,
        logging_steps=max(1, settings.steps // 100),
        save_strategy="no",
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        max_grad_norm=1.0,
        average_tokens_across_devices=False,
        use_cpu=not torch.cuda.is_available(),
    )
    teacher.to(arguments.device)
    if kept is not None:
        ids = shared(kept, student.config.vocab_size, arguments.device)
    trainer = Distiller(
        student, arguments, data_collator=pad, train_dataset=list(texts), callbacks=[_watcher(settings, texts)]
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is ours, a mean: accumulated batches must share it
    return trainer


@dataclass(frozen=True)
class Shared:
    """The tokens that both have, by each one's ids, and the teacher's id of every token of the student."""

    own: torch.Tensor
    other: torch.Tensor
    read: torch.Tensor


def shared(kept: Sequence[tuple[int, int]], rows: int, device: Any) -> Shared:
    import torch

    own, other = (torch.tensor(ids, device=device) for ids in zip(*kept, strict=True))
    read = torch.zeros(rows, dtype=torch.long, device=device)
    read[own] = other
    return Shared(own, other, read)


def states(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """The embeddings, what each block makes of them, and last what the head reads, each [texts, tokens, hidden]. The
    logits are asked for at one place only: all of them would be the largest tensor of the run."""
    made = model(**batch, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    found: tuple[torch.Tensor, ...] = made.hidden_states
    return found


def _own_turn(step: int, share: float) -> bool:
    """Spread evenly, and the same after a resume."""
    return math.floor((step + 1) * share) > math.floor(step * share)


def own_texts(student: Any, batch: dict[str, Any], settings: DistillSettings) -> dict[str, Any]:
    """The same prompts with what the student makes of them now."""
    heads = []
    for tokens, learn in zip(batch["input_ids"].tolist(), batch["learn"].tolist(), strict=True):
        heads.append(tokens[: learn.index(1) + 1] if 1 in learn else tokens[:1])
    student.eval()
    rows = generate(student, heads, settings)
    student.train()
    texts = [Text(len(head), (*head, *row)) for head, row in zip(heads, rows, strict=True)]
    return {name: tensor.to(batch["input_ids"].device) for name, tensor in pad(texts).items()}


def _watcher(settings: DistillSettings, texts: Sequence[Text]) -> Any:
    """Prints progress with loss and tokens/s, and asks for a state every minute."""
    from transformers import TrainerCallback

    tokens = sum(len(t.tokens) for t in texts) / max(len(texts), 1) * settings.batch * settings.accumulate

    class Watcher(TrainerCallback):  # type: ignore[misc]
        began = saved = time.monotonic()
        first = 0
        loss = float("nan")

        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            self.began = self.saved = time.monotonic()
            self.first = state.global_step

        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
            rate = tokens * (state.global_step - self.first) / max(time.monotonic() - self.began, 1e-9)
            progress(state.global_step, settings.steps, f"loss {self.loss:.3f}, {rate:,.0f} tokens/s")
            if time.monotonic() - self.saved > SAVE_SECONDS:
                self.saved = time.monotonic()
                control.should_save = True
            return control

    return Watcher()
