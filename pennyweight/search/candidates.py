"""The candidates of a search: every legal combination of engine, scheme, recipe and settings."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pennyweight import schemes as schemes_table
from pennyweight.deployment import Deployment, Group
from pennyweight.errors import EngineRefused, UsageError
from pennyweight.hardware import Hardware
from pennyweight.measurement import Measurement
from pennyweight.model import Model
from pennyweight.plan import cost
from pennyweight.search import compatibility
from pennyweight.search.recipes import UNCHANGED, Recipe, compose
from pennyweight.serve import catalogue


@dataclass(frozen=True)
class Candidate:
    """An engine with a scheme and a recipe (its group) and settings."""

    engine: str
    scheme: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe = UNCHANGED

    @property
    def group(self) -> Group:
        return (self.engine, self.scheme, self.recipe.name)

    def deployment(self, model: Model | None = None) -> Deployment:
        """The deployment of this model; without one, its identity with the model's fields left empty."""
        path, model_id, name = (str(model.path), model.id, model.name) if model else ("", "", "")
        return Deployment(
            self.engine, path, model_id, self.scheme, self.settings, recipe=self.recipe.name, model_name=name
        )

    @property
    def kernels(self) -> str:
        return catalogue.kernels(self.engine, self.scheme)

    @property
    def label(self) -> str:
        flags = " ".join(f"{name}={value}" for name, value in sorted(self.settings.items()))
        return " ".join(filter(None, (*self.group, flags)))


@dataclass(frozen=True)
class Space:
    """All legal candidates by group, defaults first, and the refused ones with the reasons."""

    groups: Mapping[Group, tuple[Candidate, ...]]
    refused: tuple[tuple[str, str], ...]

    @property
    def candidates(self) -> list[Candidate]:
        return [candidate for group in self.groups.values() for candidate in group]


def propose(
    model: Model,
    hardware: Hardware,
    streams: int,
    engines: Sequence[str] | None,
    schemes: Sequence[str] | None,
    *,
    wanted: Mapping[str, str] | None = None,
    longest: int = 2048,
    remote: Mapping[str, str] | None = None,
    fields: Collection[str] = (),
) -> Space:
    """Every engine with every scheme that it serves and every recipe, as far as they can be made of this model and are
    of use to requests of up to `longest` tokens. `remote` are the settings of a running server to include, `fields`
    those of requests that an engine must follow."""
    groups: dict[Group, tuple[Candidate, ...]] = {}
    recipes, refused = compose(wanted or {})
    possible = []
    for recipe in recipes:
        reason = recipe.refusal(model)
        if reason:
            refused.append((recipe.name, reason))
        else:
            possible.append((recipe, recipe.config(model.config)))
    known = {scheme for name in catalogue.names() for scheme in catalogue.offer(name).schemes}
    for scheme in schemes or ():
        if scheme not in known:
            raise UsageError(f"Scheme {scheme!r} is unknown: use some of {', '.join(sorted(known))}.")
    catalogue.require([engine for engine in engines or () if engine != catalogue.REMOTE])
    for engine in engines or catalogue.names():
        if engine == catalogue.REMOTE:
            continue  # added last, with fixed settings
        unheeded = catalogue.unheeded(engine, fields)
        if unheeded:
            refused.append((engine, f"{engine} does not follow {', '.join(unheeded)}, which the workload asks for."))
            continue
        offer = catalogue.offer(engine)
        offered = catalogue.schemes_of(engine, model)
        for scheme in offered:
            if schemes and scheme not in schemes and not unmodified(scheme):
                continue
            choices = catalogue.settings_to_search(engine, hardware, streams, longest)
            for recipe, config in possible:
                reason = catalogue.refusal(engine, scheme, config, model.path)
                if reason:
                    refused.append((" ".join(filter(None, (engine, scheme, recipe.name))), reason))
                    continue
                all_settings = (dict(zip(choices, v, strict=True)) for v in itertools.product(*choices.values()))
                groups[(engine, scheme, recipe.name)] = tuple(
                    Candidate(engine, scheme, settings, recipe)
                    for settings in all_settings
                    if _possible(engine, settings) and not compatibility.conflict(engine, settings, offer.presets)
                )
    if remote:
        (scheme,) = catalogue.offer(catalogue.REMOTE).schemes
        fixed = Candidate(catalogue.REMOTE, scheme, dict(remote))
        groups[fixed.group] = (fixed,)
    return Space(groups, tuple(refused))


def _possible(engine: str, settings: Mapping[str, Any]) -> bool:
    try:
        catalogue.check(engine, settings)
    except EngineRefused:
        return False
    return True


def neighbours(candidate: Candidate, group: Sequence[Candidate]) -> list[Candidate]:
    """The candidates of its group that differ from it in exactly one setting."""

    def distance(other: Candidate) -> int:
        return sum(candidate.settings[name] != other.settings[name] for name in candidate.settings)

    return [other for other in group if distance(other) == 1]


def is_unmodified(group: Group) -> bool:
    """Neither scheme nor recipe changes what the model says."""
    return unmodified(group[1]) and not group[2]


def unmodified(scheme: str) -> bool:
    """Whether this scheme changes no weight beyond its last bits."""
    return schemes_table.scheme(scheme).unmodified


def finer_than(scheme: str) -> tuple[str, ...]:
    """The schemes of its family that lose less, the finest first."""
    return schemes_table.scheme(scheme).finer


def predicted(
    candidate: Candidate, model: Model, hardware: Hardware, load: cost.Load, corrections: Mapping[str, float]
) -> Measurement:
    correction = corrections.get(candidate.kernels, 1.0)
    config = candidate.recipe.config(model.config)
    efficiency = catalogue.efficiency(candidate.engine, candidate.scheme)
    return cost.predict(
        candidate.label, config, candidate.scheme, efficiency, hardware, load=load, correction=correction
    )
