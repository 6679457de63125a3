"""The public names: adding or dropping one is a decision, so this list is written twice."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pennyweight

HOMES = (
    "budget",
    "deployment",
    "errors",
    "evidence",
    "hardware",
    "measurement",
    "model",
    "schemes",
    "service",
    "shape",
    "study",
    "verbs",
    "workload",
)


def test_the_public_names_are_these() -> None:
    assert sorted(pennyweight.__all__) == [
        "Arrivals",
        "Budget",
        "CachePolicy",
        "Comparison",
        "Deployment",
        "Evidence",
        "Hardware",
        "Limit",
        "Lineage",
        "Measurement",
        "Model",
        "ModelShape",
        "Outcome",
        "PennyweightError",
        "PromptShape",
        "Quantity",
        "Request",
        "Scheme",
        "SearchOutcome",
        "Service",
        "Stage",
        "Step",
        "Study",
        "Trial",
        "Verdict",
        "Workload",
        "__version__",
        "apply",
        "bench",
        "evaluate",
        "open_model",
        "open_service",
        "optimize",
    ]


def test_each_public_name_is_the_one_of_its_module() -> None:
    homes = [import_module(f"pennyweight.{name}") for name in HOMES]
    for name in set(pennyweight.__all__) - {"__version__"}:
        public = getattr(pennyweight, name)
        assert any(vars(home).get(name) is public and public.__module__ == home.__name__ for home in homes), name


def test_the_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", pennyweight.__version__)


def test_no_verb_has_the_name_of_a_folder() -> None:
    folders = {path.name for path in Path(pennyweight.__file__).parent.iterdir() if path.is_dir()}
    assert not folders & set(pennyweight.__all__)
