"""A server with the OpenAI API that pennyweight did not start. It is measured as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pennyweight.engines.base import Engine, Runtime
from pennyweight.errors import EngineRefused
from pennyweight.workload import ANSWER_FIELDS

SCHEME = "as served"


@dataclass(frozen=True)
class Remote(Engine):
    """`base_url` ends before /v1; `served_model` is the model's name there."""

    base_url: str = ""
    served_model: str = ""

    name: ClassVar[str] = "remote"
    packages: ClassVar[tuple[str, ...]] = ()
    model_format: ClassVar[str] = "served elsewhere"
    schemes: ClassVar[tuple[str, ...]] = (SCHEME,)
    answer_fields: ClassVar[tuple[str, ...]] = ANSWER_FIELDS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.base_url.startswith(("http://", "https://")) or not self.served_model:
            raise EngineRefused(
                f"remote: base_url={self.base_url!r}, served_model={self.served_model!r} is no server: give both."
            )

    def load(self, directory: Path) -> Runtime:
        raise EngineRefused(f"{self.base_url} is served already: {directory} is not loaded.")
