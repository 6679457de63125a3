"""What an installed package needs, without some of it.

    python -m pennyweight.install.requirements SITE NAME FILE WITHOUT…

For packages that require builds which the index does not have; pip cannot skip a single requirement.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def requirements(site: Path, name: str, without: Sequence[str]) -> list[str]:
    """The lines of its metadata, extras and what is left out excepted."""
    found = next(iter(metadata.distributions(name=name, path=[str(site)])))
    return [line for line in found.requires or [] if "extra ==" not in line and project(line) not in without]


def project(requirement: str) -> str:
    """`torch==2.13.0+cpu; …` -> torch."""
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()


if __name__ == "__main__":
    place, package, target, *left_out = sys.argv[1:]
    Path(target).write_text("\n".join(requirements(Path(place), package, left_out)) + "\n")
