"""Deployment: one JSON value that says what is served and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyweight.errors import StorageError
from pennyweight.model import canonical_hash

DEPLOYMENT_FILE = "deployment.json"


@dataclass(frozen=True)
class Deployment:
    """`model_path` is a directory (relative to the file that holds this value, when it was read from one)."""

    engine: str
    model_path: str
    model_id: str
    scheme: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    served_name: str = "model"
    recipe: str = ""  # the techniques that changed the model before it was quantized
    # Streams up to which guessing ahead was faster when it was measured: told, and no part of what is served.
    guesses_pay_up_to: int = field(default=0, compare=False)

    @property
    def id(self) -> str:
        """Depends on everything that changes what is served, and not on where it lies."""
        return canonical_hash(
            {"engine": self.engine, "model": self.model_id, "scheme": self.scheme, "settings": dict(self.settings)}
            | ({"recipe": self.recipe} if self.recipe else {})
        )

    @property
    def group(self) -> tuple[str, str, str]:
        """Engine, scheme and recipe: what deployments share that differ in settings only."""
        return (self.engine, self.scheme, self.recipe)

    @property
    def label(self) -> str:
        """Short enough for a table row."""
        flags = " ".join(f"{name}={value}" for name, value in sorted(self.settings.items()))
        return " ".join(filter(None, (self.engine, self.scheme, self.recipe, flags)))

    def as_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "model_path": self.model_path,
            "model_id": self.model_id,
            "scheme": self.scheme,
            "settings": dict(self.settings),
            "served_name": self.served_name,
            "recipe": self.recipe,
            "guesses_pay_up_to": self.guesses_pay_up_to,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Deployment:
        return Deployment(**value)

    def write(self, directory: Path) -> Path:
        path = directory / DEPLOYMENT_FILE
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")
        return path

    @staticmethod
    def read(path: Path) -> Deployment:
        """From a deployment file or the directory that holds one."""
        file = path / DEPLOYMENT_FILE if path.is_dir() else path
        try:
            value = json.loads(file.read_text())
            deployment = Deployment.from_json(value)
            if not (isinstance(deployment.model_path, str) and isinstance(deployment.settings, dict)):
                raise TypeError("model_path must be text and settings an object")
        except FileNotFoundError:
            raise StorageError(f"{file} does not exist: give the directory that `pw optimize -o` wrote.") from None
        except (ValueError, TypeError) as error:
            raise StorageError(f"{file} is no deployment ({error}): write it again with `pw optimize`.") from None
        model_path = Path(deployment.model_path)
        if not model_path.is_absolute():
            model_path = (file.parent / model_path).resolve()
        return Deployment.from_json({**deployment.as_json(), "model_path": str(model_path)})
