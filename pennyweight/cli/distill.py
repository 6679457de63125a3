"""`pw distill`: train a changed model on the outputs of the model that it was made from."""

from __future__ import annotations

from typing import Annotated

import typer

from pennyweight.cli import artifacts, options


def distill(
    student: artifacts.ModelArgument,
    teacher: Annotated[str, typer.Option(help="The model to learn from, given like STUDENT.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 200,
    batch: Annotated[int, typer.Option(help="Texts in a batch.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Batches whose gradients are accumulated into one step.")] = 1,
    length: Annotated[int, typer.Option(help="Longest text in tokens, prompt and continuation.")] = 256,
    continuations: Annotated[int, typer.Option(help="Continuations that the teacher writes for each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="Sampling temperature of the continuations.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-4,
    divergence: Annotated[
        str, typer.Option(help="Loss: forward or reverse (KL), jensen-shannon, or a mix: forward:0.7,reverse:0.3.")
    ] = "forward",
    hidden: Annotated[float, typer.Option(help="Weight of the hidden-state loss, block by block.")] = 0.0,
    on_policy: Annotated[float, typer.Option(help="Share of the steps on the student's own continuations.")] = 0.0,
    round_to: Annotated[str, typer.Option(help="Quantization-aware training for Q4_0, Q8_0 or W4A16.")] = "",
    train_embeddings: Annotated[bool, typer.Option(help="Train the embeddings and the head, too.")] = False,
    mixed_precision: Annotated[bool, typer.Option(help="Compute in bfloat16, keep float32 weights.")] = False,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Recompute activations: less memory, slower.")] = False,
    workload: options.WorkloadName = "chat",
    output: artifacts.Output = None,
    seed: options.Seed = 0,
    trace_format: options.TraceFormat = None,
    as_json: options.AsJson = False,
) -> None:
    """Train STUDENT on the teacher's token distributions.

    The training texts are what the teacher writes after the workload's prompts. An interrupted run resumes when the
    same command is given again."""
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
    artifacts.copy_and_report(learner, made, output, as_json=as_json)
