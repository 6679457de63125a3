"""Engines run a model: base.py has the contract and the registry, each other file or folder is one engine."""

from pennyweight.engines.base import ENGINES, Engine, engine_class, make, require

__all__ = ["ENGINES", "Engine", "engine_class", "make", "require"]
