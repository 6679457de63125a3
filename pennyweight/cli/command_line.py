"""The command line: one module a verb, found by its name. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from pennyweight.errors import PennyweightError

SHARED = ("artifacts", "command_line", "console", "options", "targets")  # files here that are no verbs
VERBS = sorted(
    module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name not in SHARED
)
PAIR = re.compile(r"^[a-z0-9]+:[0-9.]+$")
INTERRUPTED = 130
STOPPED = "Interrupted. What a search has measured is kept: `pw optimize … --resume` goes on from there."

app = typer.Typer(
    name="pw",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A model, a workload and a budget go in; the cheapest deployment proven to hold the budget comes out, and is "
    "served. Exit codes: 0 proven, 1 error, 2 usage, 3 infeasible, 4 quality gate failed.",
)

for _module in VERBS:
    app.command(name=_module.replace("_", "-"))(getattr(import_module(f"pennyweight.cli.{_module}"), _module))


def main() -> None:
    """Run the command line; whatever goes wrong ends as one sentence and an exit code."""
    code: object = 0
    try:
        code = app(args=spread_pairs(sys.argv[1:]), standalone_mode=False)
    except PennyweightError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(STOPPED, INTERRUPTED)
    except typer.Exit as leaving:
        code = leaving.exit_code
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}. Check the path, its rights and the free space.", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # the argument parser's own: unknown option, missing argument
            _fail(f"{error.format_message()} See `pw --help`.", 2)
        if os.environ.get("PENNYWEIGHT_DEBUG"):
            raise
        _fail(f"Internal error ({type(error).__name__}: {error}): set PENNYWEIGHT_DEBUG=1 for where, and report it.", 1)
    if code == INTERRUPTED:  # the parser turns Ctrl-C into this code
        _fail(STOPPED, INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def spread_pairs(arguments: list[str]) -> list[str]:
    """`--goodput ttft:500 tpot:60`, as vLLM spells it, into one value that the parser takes."""
    spread: list[Any] = []
    for argument in arguments:
        previous = spread[-1] if spread else ""
        if PAIR.match(argument) and len(spread) > 1 and spread[-2] in ("--goodput", "--slo") and ":" in previous:
            spread[-1] = f"{previous},{argument}"
        else:
            spread.append(argument)
    return spread


def _fail(sentence: str, code: int) -> None:
    print(f"pw: {sentence}", file=sys.stderr)
    sys.exit(code)
