"""Techniques: Model -> Model, one per file. `apply` runs one; base.py has the contract and the registry."""

from pennyweight.techniques.base import TECHNIQUES, Technique
from pennyweight.techniques.jobs import apply

__all__ = ["TECHNIQUES", "Technique", "apply"]
