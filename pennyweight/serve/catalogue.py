"""What can be served here: descriptions of the engines, for code that proposes deployments without running them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight import engines, schemes
from pennyweight.chat_template import templates_of
from pennyweight.deployment import Deployment
from pennyweight.errors import EngineMissing, EngineRefused, UsageError
from pennyweight.export.targets import EXPORTS, NOT_RUN, export
from pennyweight.hardware import Efficiency, Hardware
from pennyweight.install import environments
from pennyweight.model import Model
from pennyweight.paths import absolute

__all__ = [
    "EXPORTS",
    "NOT_RUN",
    "REMOTE",
    "Offer",
    "check",
    "export",
    "install",
    "names",
    "notes",
    "offer",
    "refusal",
    "remove",
    "schemes_of",
    "settings_to_search",
    "unheeded",
]
REMOTE = "remote"


@dataclass(frozen=True)
class Offer:
    """One engine: what it takes, what may be set, where it is, and why it cannot be used if it cannot."""

    engine: str
    model_format: str
    schemes: tuple[str, ...]
    settings: tuple[str, ...]
    presets: Mapping[str, Mapping[str, Any]]
    version: str | None
    where: str
    missing: str | None
    warning: str | None
    install: str


def names() -> tuple[str, ...]:
    """Engines that we can serve with; without `scripted`, which has no model, and `remote`, which we do not run."""
    return tuple(name for name in engines.ENGINES if name not in ("scripted", REMOTE))


def offer(engine: str) -> Offer:
    cls = engines.engine_class(engine)
    missing = cls.missing()
    version, where, warning = (None, "", None) if missing else (cls.version(), cls.install_path(), cls.warning())
    command = f"pw engines install {engine}" if cls.recipe else f"pip install {' '.join(cls.wheels())}"
    settings = tuple(field.name for field in dataclasses.fields(cls))
    return Offer(
        engine, cls.model_format, cls.schemes, settings, cls.presets, version, where, missing, warning, command
    )


def recipe_of(name: str) -> environments.Recipe | None:
    """Of an engine that we serve with, or of one that is exported to."""
    return EXPORTS[name].recipe if name in EXPORTS else engines.engine_class(name).recipe


def install(engine: str, stage: environments.Stage, progress: environments.Progress) -> Path:
    """Make the engine's own environment; those that are plain packages have none."""
    recipe = recipe_of(engine)
    if recipe is None:
        if engine in EXPORTS:
            raise UsageError(f"{engine} does not run here: `pw export MODEL --engine {engine}` writes for it.")
        raise UsageError(f"{engine} needs no environment of its own: run `{offer(engine).install}`.")
    return environments.install(engine, recipe, stage, progress)


def remove(engine: str) -> int:
    """Delete its environment; returns the bytes freed."""
    if recipe_of(engine) is None:
        raise UsageError(f"{engine} has no environment of its own: uninstall it with pip.")
    return environments.remove(engine)


def schemes_of(engine: str, model: Model) -> list[str]:
    """What the engine could serve of a model: a full-precision checkpoint unchanged, or quantized."""
    cls = engines.engine_class(engine)
    if cls.model_format != model.format:
        return list(cls.schemes)
    return [model.scheme, *(scheme for scheme in cls.schemes if scheme not in schemes.FULL_PRECISION)]


def refusal(engine: str, scheme: str, config: Mapping[str, Any], directory: Path | None = None) -> str | None:
    """Why this engine cannot serve such a model, before anything is built; None if it can. `directory` holds the
    model's files, where they are there."""
    try:
        engines.engine_class(engine).refuse_early(config, scheme)  # before asking for an installation in vain
        if directory is not None:
            engines.engine_class(engine).refuse_files(directory)
        engines.require(engine)
    except (EngineMissing, EngineRefused) as error:
        return str(error)
    return None


def notes(deployment: Deployment) -> list[str]:
    """What who starts it should know: about its engine, and about its model."""
    place = Path(deployment.model_path)
    config, tokenizer = (_json(place / name) for name in ("config.json", "tokenizer_config.json"))
    said = engines.make(deployment.engine, deployment.settings).note(config)
    found = [] if said is None else [said]
    if not templates_of(place, tokenizer):
        found.append(
            f"{deployment.model_name or place.name} has no chat template: messages become plain paragraphs, as for a "
            "model that only continues texts."
        )
    return found


def _json(file: Path) -> dict[str, Any]:
    value = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return value if isinstance(value, dict) else {}


def unheeded(engine: str, fields: Iterable[str]) -> list[str]:
    """Those of a request's fields that this engine does not follow."""
    return engines.engine_class(engine).unheeded(fields)


def settings_to_search(engine: str, hardware: Hardware, streams: int, longest: int) -> Mapping[str, tuple[Any, ...]]:
    """Setting -> values, the default first. Threads and the batch limit are every engine's."""
    choices: dict[str, tuple[Any, ...]] = {"max_num_seqs": (streams,)}
    if streams >= 16:
        choices["max_num_seqs"] = (streams, streams // 2)
    if hardware.cores > 2:
        choices["num_threads"] = (0, hardware.cores - 1)  # a core left for HTTP
    return {**choices, **engines.engine_class(engine)().search_settings(hardware, streams, longest)}


def with_absolute_paths(engine: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a user gave them, those that are paths made absolute: the engine's process runs elsewhere."""
    names = engines.engine_class(engine).path_settings
    return {name: str(absolute(value)) if name in names else value for name, value in settings.items()}


def require(names: Sequence[str]) -> None:
    """Raise `EngineMissing` for the first of these engines that is not installed, `UsageError` for an unknown one."""
    for name in names:
        engines.require(name)


def kernels(engine: str, scheme: str) -> str:
    """A key for measured efficiency: the engine's name, plus the scheme if it has its own entry."""
    return f"{engine} {scheme}" if scheme in engines.engine_class(engine).efficiency else engine


def efficiency(engine: str, scheme: str) -> Efficiency:
    """What the engine reaches of a machine's limits in this scheme, for the cost model."""
    known = engines.engine_class(engine).efficiency
    return known.get(scheme, known[""])


def colours() -> dict[str, str]:
    """By engine, for the report."""
    return {name: engines.engine_class(name).colour for name in engines.ENGINES}


def packages() -> tuple[str, ...]:
    """Packages of our environment whose versions affect a measurement, as the package index spells them."""
    return tuple({wheel: None for name in engines.ENGINES for wheel in engines.engine_class(name).wheels()})


def check(engine: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that the engine does not have."""
    engines.make(engine, settings)
