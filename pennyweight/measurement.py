"""Measurement: named quantities of one run, measured or predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Quantity:
    """One number with its unit and direction. `raw` keeps the values that it was made of.

    `predicted` marks a number that nobody measured; reports never show one without saying so.
    """

    name: str
    value: float
    unit: str
    better: Better
    raw: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None  # confidence interval of `value`
    predicted: bool = False

    def as_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"value": self.value, "unit": self.unit, "better": self.better}
        if self.raw:
            value["raw"] = list(self.raw)
        if self.interval is not None:
            value["interval"] = list(self.interval)
        if self.predicted:
            value["predicted"] = True
        return value


@dataclass(frozen=True)
class Measurement:
    """What one run of one subject showed. `conditions` says under what load, on which half, with which seed."""

    subject: str
    quantities: Mapping[str, Quantity]
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.quantities[name].value

    def __contains__(self, name: object) -> bool:
        return name in self.quantities

    def get(self, name: str) -> float | None:
        quantity = self.quantities.get(name)
        return None if quantity is None else quantity.value

    def joined(self, other: Measurement) -> Measurement:
        """Both sets of quantities; the other's win where names meet."""
        return Measurement(
            self.subject, {**self.quantities, **other.quantities}, {**self.conditions, **other.conditions}
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "conditions": dict(self.conditions),
            "quantities": {name: q.as_json() for name, q in self.quantities.items()},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Measurement:
        quantities = {
            name: Quantity(
                name,
                q["value"],
                q["unit"],
                q["better"],
                tuple(q.get("raw", ())),
                tuple(q["interval"]) if "interval" in q else None,
                q.get("predicted", False),
            )
            for name, q in value["quantities"].items()
        }
        return Measurement(value["subject"], quantities, value["conditions"])


def collect(subject: str, quantities: Iterable[Quantity], conditions: Mapping[str, Any] | None = None) -> Measurement:
    return Measurement(subject, {q.name: q for q in quantities}, conditions or {})
