"""`pw distill`: a student learns from the model that it was made from."""

from __future__ import annotations

from typing import Annotated

import typer

from pennyweight.cli import artifacts, options


def distill(
    student: artifacts.ModelArgument,
    teacher: Annotated[str, typer.Option(help="The model to learn from, given like MODEL.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 200,
    batch: Annotated[int, typer.Option(help="Texts in a step.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Batches whose gradients make one step.")] = 1,
    length: Annotated[int, typer.Option(help="Tokens of prompt and continuation.")] = 256,
    continuations: Annotated[int, typer.Option(help="That the teacher writes after each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="At which they are written.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="Its highest value.")] = 2e-4,
    divergence: Annotated[
        str, typer.Option(help="forward, reverse, jensen-shannon, or a mix: forward:0.7,reverse:0.3.")
    ] = "forward",
    hidden: Annotated[float, typer.Option(help="Weight of matching hidden states, block by block.")] = 0.0,
    on_policy: Annotated[float, typer.Option(help="Share of the steps on the student's own continuations.")] = 0.0,
    round_to: Annotated[str, typer.Option(help="Train through the rounding of Q4_0, Q8_0 or W4A16.")] = "",
    train_embeddings: Annotated[bool, typer.Option(help="The embeddings and the head, too.")] = False,
    mixed_precision: Annotated[bool, typer.Option(help="bfloat16 arithmetic, float32 weights.")] = False,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    workload: options.WorkloadName = "chat",
    output: artifacts.Output = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    as_json: options.AsJson = False,
) -> None:
    """Train STUDENT on the teacher's distribution over texts that the teacher wrote after the workload's prompts. A run
    that was cut goes on where it was when the same command is given again."""
    from pennyweight import techniques
    from pennyweight.console import Live
    from pennyweight.inputs import open_model
    from pennyweight.techniques.distill import Distill

    artifacts.refuse_output(output)
    with Live() as live:
        live.stage(f"Opening {student}")
        learner = open_model(student, live.progress)
        model = open_model(teacher, live.progress)
        texts = artifacts.tuning_texts(model, workload, trace_format, seed)
        technique = Distill(
            str(model.path),
            model.id,
            texts,
            continuations=continuations,
            temperature=temperature,
            length=length,
            steps=steps,
            batch=batch,
            accumulate=accumulate,
            learning_rate=learning_rate,
            divergence=divergence,
            hidden=hidden,
            on_policy=on_policy,
            round_to=round_to,
            train_embeddings=train_embeddings,
            mixed_precision=mixed_precision,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
        )
        live.stage(f"Distilling {model.name} into {learner.name}")
        made = techniques.apply(technique, learner, live.progress)
    artifacts.hand_over(learner, made, output, as_json=as_json)
