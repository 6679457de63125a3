"""All options of a verb in a YAML file: `-c FILE` reads them, `--write-config FILE` writes the current ones. Options on
the command line override the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from pennyweight.errors import StorageError, UsageError
from pennyweight.paths import absolute

NOT_OPTIONS = ("config", "write_config", "help", "as_json", "dry_run", "resume")
PATHS = ("also", "model", "workload", "output", "adapter")  # relative to the file


def read_config(context: typer.Context, file: Path | None) -> Path | None:
    """The file's options become the verb's defaults. Runs as the option's callback, before the others are read."""
    if file is None:
        return None
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{file} does not exist: write one with --write-config.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not YAML ({' '.join(str(error).split())}): write `option: value` lines.") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds no options: write `option: value` lines.")
    known = {_spelled(one): one for one in context.command.params if one.name not in NOT_OPTIONS}
    defaults = {}
    for name, value in found.items():
        spelled = str(name).replace("_", "-")
        if spelled not in known:
            raise UsageError(f"{file}: the option {name!r} is unknown: use some of {', '.join(sorted(known))}.")
        parameter: Any = known[spelled]
        if parameter.multiple:
            defaults[parameter.name] = [_from_the_file(spelled, str(one), file) for one in _as_list(value)]
        else:
            defaults[parameter.name] = _from_the_file(spelled, _as_text(value), file)
    context.default_map = {**(context.default_map or {}), **defaults}
    return file


def _from_the_file(option: str, value: Any, file: Path) -> Any:
    """A path beside the file, whatever directory the command runs in. Names that are no path stay: `demo`, a Hub id."""
    beside = absolute(file).parent / str(value)
    if option in PATHS and isinstance(value, str) and (option == "output" or value.startswith(".") or beside.exists()):
        return str(absolute(beside))
    return value


def write_config(context: typer.Context, file: Path) -> None:
    """Every option of this call that has a value, paths made absolute so that the file works from anywhere."""
    import yaml

    options = {}
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in NOT_OPTIONS or value in (None, [], ()):
            continue
        if isinstance(value, Path):
            value = str(absolute(value))
        elif isinstance(value, (list, tuple)):  # of an option that is repeatable: --also
            value = [str(absolute(one)) if Path(str(one)).exists() else one for one in value]
        elif parameter.name in ("model", "workload") and Path(str(value)).exists():
            value = str(absolute(str(value)))
        options[_spelled(parameter)] = value
    file.write_text(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _spelled(parameter: Any) -> str:
    """The option's name without the leading dashes."""
    long = [name for name in parameter.opts if name.startswith("--")]
    return str(long[0][2:]) if long else str(parameter.name).replace("_", "-")


def _as_text(value: Any) -> Any:
    """A list of pairs may stand as a mapping: `slo: {ttft: 1500}`, a list of names as a list."""
    if isinstance(value, dict):
        return ",".join(f"{name}:{number}" for name, number in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value
