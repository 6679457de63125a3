"""The command line: one file per verb, found by its name. Nothing heavy is imported before a verb runs.

Every error ends as one sentence on stderr and an exit code; with --json also as a last line of JSON.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from pennyweight.errors import PennyweightError

SHARED = ("artifacts", "choosing", "command_line", "config", "options")  # files here that are not verbs
VERBS = sorted(
    module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name not in SHARED
)
NAMES = "--served-model-name"
PAIR = re.compile(r"^[a-z0-9]+:[0-9.]+$")
INTERRUPTED = 130
STOPPED = "Interrupted. A search goes on with `pw optimize … --resume`; whatever else was whole is kept."

app = typer.Typer(
    name="pw",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find, prove and serve the cheapest service for a model, a workload and a budget.",
    epilog="Exit codes: 0 proven, 1 error, 2 usage, 3 infeasible, 4 quality gate failed.",
)
for _module in VERBS:
    app.command(name=_module.replace("_", "-"))(getattr(import_module(f"pennyweight.cli.{_module}"), _module))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pennyweight {metadata.version('pennyweight')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Find, prove and serve the cheapest service for a model, a workload and a budget."""
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line."""
    arguments = repeat_names(spread_pairs(sys.argv[1:]))
    as_json = "--json" in arguments
    code: object = 0
    try:
        code = app(args=arguments, prog_name="pw", standalone_mode=False)
    except PennyweightError as error:
        _fail(str(error), error.exit_code, type(error).__name__, as_json=as_json and not error.reported)
    except KeyboardInterrupt:
        _fail(STOPPED, INTERRUPTED, "Interrupted", as_json=as_json)
    except typer.Exit as leaving:
        code = leaving.exit_code
    except BrokenPipeError:  # the reader closed the pipe, as in `pw … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sentence = f"{place}{error.strerror or error}. Check the path, its permissions and the free space."
        _fail(sentence, 1, "StorageError", as_json=as_json)
    except Exception as error:
        if hasattr(error, "format_message"):  # the argument parser's own: unknown option, missing argument
            _fail(f"{_ended(error.format_message())} See `pw --help`.", 2, "UsageError", as_json=as_json)
        if os.environ.get("PENNYWEIGHT_DEBUG"):
            raise
        sentence = (
            f"Internal error ({type(error).__name__}: {error}): set PENNYWEIGHT_DEBUG=1 for a traceback, and report it."
        )
        _fail(sentence, 1, "InternalError", as_json=as_json)
    if code == INTERRUPTED:  # the parser turns Ctrl-C into this code
        _fail(STOPPED, INTERRUPTED, "Interrupted", as_json=as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def spread_pairs(arguments: list[str]) -> list[str]:
    """Join `--goodput ttft:500 tpot:60`, vLLM's syntax, into one value that the parser accepts."""
    spread: list[Any] = []
    for argument in arguments:
        previous = spread[-1] if spread else ""
        if PAIR.match(argument) and len(spread) > 1 and spread[-2] in ("--goodput", "--slo") and ":" in previous:
            spread[-1] = f"{previous},{argument}"
        else:
            spread.append(argument)
    return spread


def repeat_names(arguments: list[str]) -> list[str]:
    """`pw serve DIR --served-model-name a b`, vLLM's syntax, as the option given twice. Only where the directory stands
    first: else `b` could be the directory."""
    repeated: list[str] = []
    naming = False
    for place, argument in enumerate(arguments):
        naming = argument == NAMES or (naming and not argument.startswith("-"))
        further = naming and argument != NAMES and arguments[place - 1] != NAMES
        repeated += [NAMES, argument] if further and not arguments[1].startswith("-") else [argument]
    return repeated


def _fail(sentence: str, code: int, kind: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": {"kind": kind, "message": sentence}}), flush=True)
    print(f"pw: {sentence}", file=sys.stderr)
    sys.exit(code)
