"""Which groups of candidates are worth building, from predictions and from what was measured so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pennyweight.budget import Outcome
from pennyweight.deployment import Group
from pennyweight.errors import EngineError
from pennyweight.measurement import Measurement
from pennyweight.search.candidates import Candidate, finer_than, unmodified
from pennyweight.search.trials import Trials
from pennyweight.serve import catalogue
from pennyweight.study import Stage, Trial

# A candidate whose prediction is below this share of the best score measured is not built. The prediction of an engine
# that was not measured yet counts for less.
MIN_PREDICTED_SHARE = 0.85
MIN_PREDICTED_SHARE_UNMEASURED = 0.40
# What a coarser scheme must be predicted to reach of a finer one's score to be built.
MIN_QUANTIZED_SHARE = 0.97
MIN_LOSSY_SHARE = 1.03
BROKEN_HERE = "is broken here"
MOST_IN_FULL_PRECISION = 0.02  # nats per token of divergence; honest engines show 0.0001 or less (docs/log/proof.md)
TIE = 0.97  # within this share of the best mean: the smaller weights win, then the default settings


def worse(score: float, best: float, share: float) -> bool:
    """Is a score below this share of the best? Scores of lower-is-better objectives are negative."""
    return score < best * share if best > 0 else score < best / share


def ordered_groups(trials: Trials) -> list[Group]:
    """Engine by engine from the most promising; in each, the shortest recipe and the finest scheme first, because what
    they lose and how fast they run decides whether the others are worth building."""
    promise = {group: trials.promise(members[0]) for group, members in trials.space.groups.items()}
    best_of_engine = {engine: max(p for g, p in promise.items() if g[0] == engine) for engine, *_ in promise}

    def order(group: Group) -> tuple[float, int, int]:
        steps = len(trials.space.groups[group][0].recipe.steps)
        return -best_of_engine[group[0]], steps, len(finer_than(group[1]))

    return sorted(promise, key=order)


def refuse_broken(candidate: Candidate, look: Measurement) -> None:
    """Raise where an engine answers otherwise than the reference in full precision. That is no loss to be weighed: it
    serves another model, and every scheme on it would."""
    if not unmodified(candidate.scheme) or candidate.recipe.steps or candidate.engine == catalogue.REMOTE:
        return
    found = look.quantities.get("divergence")
    if found is not None and found.value > MOST_IN_FULL_PRECISION:
        raise EngineError(
            f"{candidate.engine} {BROKEN_HERE}: in full precision ({candidate.scheme}) it is {found.value:.3f} nats a "
            f"token away from the reference on {look.conditions.get('requests', 'some')} of your requests, where "
            f"rounding explains {MOST_IN_FULL_PRECISION}."
        )


def reason_to_skip(trials: Trials, candidate: Candidate) -> str | None:
    """Why this group is not worth building; None where it is."""
    if candidate.engine == catalogue.REMOTE:
        return None  # nothing is built, and predictions for this machine do not apply to it
    for trial in trials.study.of_stage(Stage.SCREEN):
        if trial.deployment.engine == candidate.engine and BROKEN_HERE in (trial.failure or ""):
            return trial.failure
    return _lost_too_much(trials, candidate) or _too_slow(trials, candidate)


def _lost_too_much(trials: Trials, candidate: Candidate) -> str | None:
    """The reason from losses measured so far: a recipe's loss holds on every engine, a scheme's on its engine only."""
    for trial in _screened_with(trials, candidate.recipe.name):
        engine, scheme, _ = trial.deployment.group
        same = engine == candidate.engine and scheme in finer_than(candidate.scheme)
        if trial.measurement is None or not (same or (candidate.recipe.steps and unmodified(scheme))):
            continue
        verdict = trials.quality_verdict(trial.measurement)
        if verdict.outcome is Outcome.REJECT:
            return f"{trial.deployment.scheme} on {engine} loses too much already ({verdict.reason})"
    return None


def _too_slow(trials: Trials, candidate: Candidate) -> str | None:
    survivors = trials.survivors(Stage.SCREEN)
    if not survivors:
        return None
    promised = trials.promise(candidate)
    for trial in survivors:
        held, finer = trials.score(trial), trial.deployment
        if finer.engine != candidate.engine or finer.recipe != candidate.recipe.name:
            continue
        if finer.scheme not in finer_than(candidate.scheme):
            continue
        if worse(promised, held, MIN_QUANTIZED_SHARE if unmodified(finer.scheme) else MIN_LOSSY_SHARE):
            return f"predicted at {abs(promised):.4g}, and {finer.scheme}, which loses less, reached {abs(held):.4g}"
    best = max(trials.score(t) for t in survivors)
    share = MIN_PREDICTED_SHARE if candidate.kernels in trials.corrections else MIN_PREDICTED_SHARE_UNMEASURED
    if worse(promised, best, share):
        return f"predicted at {abs(promised):.4g} where {abs(best):.4g} was measured already"
    return None


def _screened_with(trials: Trials, recipe: str) -> list[Trial]:
    return [t for t in trials.study.of_stage(Stage.SCREEN) if t.deployment.recipe == recipe]


def ranked(means: Mapping[str, float], preference: Callable[[str], Any]) -> list[str]:
    """Names, best score first; among those tied with the best remaining one, the lowest `preference` comes first."""
    left, order = sorted(means, key=lambda name: means[name], reverse=True), list[str]()
    while left:
        order.append(min((n for n in left if not worse(means[n], means[left[0]], TIE)), key=preference))
        left.remove(order[-1])
    return order
