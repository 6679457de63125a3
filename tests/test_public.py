"""The public names: adding or dropping one is a decision, so this list is written twice."""

from __future__ import annotations

import re

import pennyweight
from pennyweight import budget, deployment, errors, hardware, measurement, model, study, workload


def test_the_public_names_are_these() -> None:
    assert sorted(pennyweight.__all__) == [
        "Arrivals",
        "Budget",
        "Deployment",
        "Hardware",
        "Limit",
        "Lineage",
        "Measurement",
        "Model",
        "Outcome",
        "PennyweightError",
        "PromptShape",
        "Quantity",
        "Request",
        "Step",
        "Study",
        "Trial",
        "Verdict",
        "Workload",
        "__version__",
    ]


def test_each_public_name_is_the_one_of_its_module() -> None:
    homes = (budget, deployment, errors, hardware, measurement, model, study, workload)
    for name in set(pennyweight.__all__) - {"__version__"}:
        public = getattr(pennyweight, name)
        assert any(vars(home).get(name) is public and public.__module__ == home.__name__ for home in homes), name


def test_the_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", pennyweight.__version__)
