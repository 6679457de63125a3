"""What was seen when engines were tried on tiny models (conformance.json), and whether it admits a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pennyweight.features import features

# Seen right with one architecture, these are right with every other: nothing about them is the architecture's own.
COMMON = {"grouped heads", "one key-value head", "tied head"}
FILE = Path(__file__).with_name("conformance.json")


def read_table() -> dict[str, Any]:
    """{"cases": name -> {model_type, shows, features, all_features}, "engines": name -> {version, made, cases: name ->
    {result, evidence}}}; empty where nothing was tried yet. `features` are what the case sets itself, `all_features`
    what its whole config.json says, defaults of the architecture included: checkpoints come with such a config."""
    try:
        return dict(json.loads(FILE.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


@cache
def _kept() -> dict[str, Any]:
    return read_table()


def refusal(engine: str, config: Mapping[str, Any], *, other_machine: bool = False) -> str | None:
    """Why this engine does not serve a model with this config.json, or None where it was seen to.

    Its `model_type` must have been right in a case, and each of its features in a case of that type (those in `COMMON`,
    of any type), set there or a default; and where a case was wrong, the model must not ask for all that this case set
    itself.

    On an `other_machine` than the table was made on (a GPU), what did not load here may load: only what was wrong is
    refused, and the rest is left to the look at the user's own prompts when it is loaded."""
    table = _kept()
    tried = (table.get("engines") or {}).get(engine)
    if tried is None:
        return f"{engine} was never tried here, so that nothing is known of it: run `pw engines conform {engine}`."
    model_type, asked = str(config.get("model_type") or ""), features(config)
    cases = [(name, case) for name, case in table["cases"].items() if case["model_type"] == model_type]
    results = {name: tried["cases"].get(name, {}) for name, _ in cases}
    right = [_all_features(case) for name, case in cases if results[name].get("result") == "right"]
    anywhere = {
        feature
        for name, case in table["cases"].items()
        if tried["cases"].get(name, {}).get("result") == "right"
        for feature in COMMON & _all_features(case)
    }
    for name, case in cases:
        if (
            results[name].get("result") in (("wrong",) if other_machine else ("wrong", "failed", "refused"))
            and set(case["features"]) - COMMON <= asked
        ):
            return f"{engine} was tried on {name} and is not right there ({results[name]['evidence']})."
    if other_machine:
        return None
    if not right:
        return f"{engine} was never seen to serve {model_type} models right (docs/conformance.md)."
    unseen = ", ".join(sorted(asked - anywhere.union(*right)))
    if unseen:
        return f"{engine} was never seen to serve {model_type} models with {unseen} right (docs/conformance.md)."
    return None


def _all_features(case: Mapping[str, Any]) -> set[str]:
    return {*case["features"], *case["all_features"]}
