"""Recipes: the techniques that a search combines before it quantizes. Each technique defines its name, default amount
and effect on the config (`techniques.base.Technique`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pennyweight import techniques
from pennyweight.errors import PennyweightError, UsageError
from pennyweight.model import Model
from pennyweight.search import compatibility
from pennyweight.techniques.base import Material, Progress, searched
from pennyweight.techniques.layout import changeable


@dataclass(frozen=True)
class Recipe:
    """Techniques by name with their amounts, in order. Without any it is the unmodified model."""

    steps: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        known = searched()
        return "+".join(
            step if amount == known[step].default_amount else f"{step}:{amount}" for step, amount in self.steps
        )

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What config.json will say, before anything is built: for predictions and refusals."""
        changed = dict(config)
        for name, amount in self.steps:
            changed = searched()[name].predict_config(changed, amount)
        return changed

    def refusal(self, model: Model) -> str | None:
        """Why this cannot be made of the model."""
        if not self.steps:
            return None  # the unmodified model, of any architecture
        try:
            material = Material(changeable(model.config), ("x",), ("x",), model)
            for name, amount in self.steps:
                if name != "distill":  # its texts do not exist yet, so they are checked later
                    searched()[name].from_amount(amount, material).result_kind(model)
        except PennyweightError as error:
            return str(error)
        return None

    def build(self, model: Model, calibration: Sequence[str], prompts: Sequence[str], progress: Progress) -> Model:
        made = model
        for name, amount in self.steps:
            material = Material(changeable(made.config), tuple(calibration), tuple(prompts), model)
            made = techniques.apply(searched()[name].from_amount(amount, material), made, progress)
        return made


UNCHANGED = Recipe()


def compose(wanted: Mapping[str, str]) -> tuple[list[Recipe], list[tuple[str, str]]]:
    """All combinations of these techniques to try, shortest first, and the refused ones with the reasons."""
    steps = [(name, wanted[name]) for name in searched() if name in wanted]
    made, refused = [UNCHANGED], []
    for count in range(1, len(steps) + 1):
        for chosen in combinations(steps, count):
            recipe = Recipe(chosen)
            reason = compatibility.refusal([name for name, _ in chosen])
            if reason:
                refused.append((recipe.name, reason))
            else:
                made.append(recipe)
    return made, refused


def parse(text: str | None) -> dict[str, str]:
    """`prune:20%,vocabulary` -> amount by technique; "" is none."""
    known = searched()
    wanted: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in (text or "").split(","))):
        name, _, amount = part.partition(":")
        if name not in known:
            raise UsageError(f"--techniques: unknown {name!r}: use {', '.join(known)}, with amounts like prune:20%.")
        wanted[name] = amount or known[name].default_amount
        known[name].check_amount(wanted[name])
    return wanted
