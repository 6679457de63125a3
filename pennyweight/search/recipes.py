"""Which techniques a search composes before it quantizes, in which order, and how much of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pennyweight import techniques
from pennyweight.errors import PennyweightError, UsageError
from pennyweight.model import Model
from pennyweight.search import compatibility
from pennyweight.techniques.base import Progress, Technique
from pennyweight.techniques.depth import Depth, shortened
from pennyweight.techniques.distill import Distill
from pennyweight.techniques.key_value_heads import KeyValueHeads
from pennyweight.techniques.layout import Layout
from pennyweight.techniques.sparsity import Sparsity
from pennyweight.techniques.vocabulary import Vocabulary, size_kept
from pennyweight.techniques.width import SNAP, Width, narrowed

# In the order in which they are applied, each with the amount that is tried when none is given.
ORDER = {"prune": "10%", "neurons": "12.5%", "kv-heads": "1", "sparsity": "2:4", "vocabulary": "0", "distill": "200"}


@dataclass(frozen=True)
class Recipe:
    """Techniques by name with their amounts, in order. Without any it is the model as it came."""

    steps: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return "+".join(step if amount == ORDER[step] else f"{step}:{amount}" for step, amount in self.steps)

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What config.json will say, before anything is built: for predictions and refusals."""
        changed = dict(config)
        for name, amount in self.steps:
            layout = Layout.of(changed)
            if name == "prune":
                changed = shortened(changed, range(_layers(layout, amount)))
            elif name == "neurons":
                changed = narrowed(changed, layout, Width(intermediate=_neurons(layout, amount)))
            elif name == "kv-heads":
                changed["num_key_value_heads"] = int(amount)
            elif name == "vocabulary":
                changed["vocab_size"] = size_kept(int(amount), layout)
        return changed

    def refusal(self, model: Model) -> str | None:
        """Why this cannot be made of the model."""
        if not self.steps:
            return None  # whatever its architecture
        try:
            layout = Layout.of(model.config)
            for name, amount in self.steps:
                if name != "distill":
                    technique(name, amount, layout, ("x",), ("x",), model).result_kind(model)
        except PennyweightError as error:
            return str(error)
        return None

    def build(self, model: Model, calibration: Sequence[str], prompts: Sequence[str], progress: Progress) -> Model:
        made = model
        for name, amount in self.steps:
            layout = Layout.of(made.config)
            made = techniques.apply(technique(name, amount, layout, calibration, prompts, model), made, progress)
        return made


UNCHANGED = Recipe()


def technique(
    name: str, amount: str, layout: Layout, calibration: Sequence[str], prompts: Sequence[str], teacher: Model
) -> Technique:
    texts = tuple(calibration)
    makers: dict[str, Callable[[], Technique]] = {
        "prune": lambda: Depth(_layers(layout, amount), "loss", texts),
        "neurons": lambda: Width(intermediate=_neurons(layout, amount), calibration=texts),
        "kv-heads": lambda: KeyValueHeads(int(amount)),
        "sparsity": lambda: Sparsity(amount, "wanda", texts),
        "vocabulary": lambda: Vocabulary(int(amount), texts),
        "distill": lambda: Distill(
            str(teacher.path),
            teacher.id,
            tuple(prompts),
            steps=int(amount),
            batch=4,
            mixed_precision=True,
            learning_rate=1e-4,
            temperature=0.7,
            length=384,
        ),
    }
    return makers[name]()


def compose(wanted: Mapping[str, str]) -> tuple[list[Recipe], list[tuple[str, str]]]:
    """All combinations of these techniques that may be worth a try, fewest first, and those refused with the reason."""
    steps = [(name, wanted[name]) for name in ORDER if name in wanted]
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
    wanted: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in (text or "").split(","))):
        name, _, amount = part.partition(":")
        if name not in ORDER:
            raise UsageError(f"--techniques knows no {name!r}: use {', '.join(ORDER)}, with amounts like prune:20%.")
        wanted[name] = amount or ORDER[name]
        if name in ("prune", "neurons"):
            _share(name, wanted[name])
        elif name == "sparsity":
            Sparsity(wanted[name])
        elif not wanted[name].isdecimal() or (int(wanted[name]) < 1 and name != "vocabulary"):
            raise UsageError(f"--techniques {part!r}: {amount!r} is no whole number above 0.")
    return wanted


def _share(name: str, amount: str) -> float:
    try:
        share = float(amount.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not amount.endswith("%") or not 0 < share < 1:
        raise UsageError(f"--techniques {name}:{amount} is no share: write {name}:20%.")
    return share


def _layers(layout: Layout, amount: str) -> int:
    return max(1, round(layout.layers * (1 - _share("prune", amount))))


def _neurons(layout: Layout, amount: str) -> int:
    return max(SNAP, round(layout.intermediate * (1 - _share("neurons", amount)) / SNAP) * SNAP)
