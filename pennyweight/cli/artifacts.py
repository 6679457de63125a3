"""Shared code of the verbs that change a model: reading its calibration texts, and copying and reporting the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pennyweight.errors import StorageError, UsageError

if TYPE_CHECKING:
    from pennyweight.model import Model

ModelArgument = Annotated[str, typer.Argument(help="A Hub id, a Hugging Face directory, a .gguf file, or `demo`.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Copy the artifact here as well.")]
COUNTS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}


def refuse_output(output: Path | None) -> None:
    if output is not None and output.exists():
        raise StorageError(f"{output} is already there: choose another directory with -o.")


def tuning_texts(model: Model, workload: str, trace_format: str | None, seed: int) -> tuple[str, ...]:
    """The tuning half's prompts as the model reads them, ready to be continued."""
    from pennyweight.inputs import read_workload
    from pennyweight.tokenizer import Tokenizer

    tokenizer = Tokenizer(model.path)
    tuning, _ = read_workload(workload, trace_format, seed=seed, tokenizer=model.path).split(seed)
    return tuple(tokenizer.prompt_text(request) for request in tuning.requests)


def copy_and_report(before: Model, made: Model, output: Path | None, *, as_json: bool, **facts: Any) -> None:
    """Copy the model to `output` if given, and print its size and path."""
    import shutil

    from pennyweight.weights import Weights

    if output is not None:
        shutil.copytree(made.path, output)
    place = output or made.path
    old, new = Weights(before.path).parameters, Weights(made.path).parameters
    typer.echo(f"{new / 1e6:.1f}M parameters of {old / 1e6:.1f}M ({1 - new / old:.1%} fewer), in {place}")
    if as_json:
        row = {"id": made.id, "path": str(place), "parameters": new, "before": old, **facts}
        print(json.dumps(row))


def count(text: str | None, option: str) -> int | None:
    """`100M` -> 100,000,000."""
    if text is None:
        return None
    number, suffix = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    try:
        return int(float(number) * COUNTS[suffix])
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"{option} {text!r} is not a count: write it as 100M or 1.2B.") from None
