"""What can be served here: the engines' descriptions, for those who propose deployments and never run one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pennyweight import engines
from pennyweight.errors import EngineMissing, EngineRefused
from pennyweight.hardware import Hardware


@dataclass(frozen=True)
class Offer:
    """One engine: what it takes, what may be set, and why it cannot be used if it cannot."""

    engine: str
    model_format: str
    schemes: tuple[str, ...]
    version: str | None
    missing: str | None


def names() -> tuple[str, ...]:
    """Engines that serve for real; the scripted one only plays."""
    return tuple(name for name in engines.ENGINES if name != "scripted")


def offer(engine: str) -> Offer:
    cls = engines.engine_class(engine)
    missing = cls.missing()
    return Offer(engine, cls.model_format, cls.schemes, None if missing else cls.version(), missing)


def refusal(engine: str, scheme: str, config: Mapping[str, Any]) -> str | None:
    """The sentence that says why this engine cannot serve such a model, before anything is built."""
    try:
        engines.require(engine).refuse_early(config, scheme)
    except (EngineMissing, EngineRefused) as error:
        return str(error)
    return None


def settings_to_search(engine: str, hardware: Hardware, streams: int) -> Mapping[str, tuple[Any, ...]]:
    """Setting -> values, the default first. Threads and the batch limit are every engine's."""
    choices: dict[str, tuple[Any, ...]] = {"max_num_seqs": (streams,)}
    if streams >= 16:
        choices["max_num_seqs"] = (streams, streams // 2)
    if hardware.cores > 2:
        choices["num_threads"] = (0, hardware.cores - 1)  # a core left for HTTP
    return {**choices, **engines.engine_class(engine)().search_settings(hardware, streams)}


def check(engine: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that the engine does not have."""
    engines.make(engine, settings)
