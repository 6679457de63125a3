"""Placement: one replica of a model on one machine type, and how it is spread over its devices."""

from __future__ import annotations

from dataclasses import dataclass

from pennyweight.cluster import MachineType
from pennyweight.shape import ModelShape

# bytes of a weight (with the scales of its blocks), the number type of the products, bytes of a cached number
PRECISIONS = {
    "f32": (4.0, "f32", 4.0),
    "bf16": (2.0, "bf16", 2.0),
    "fp8": (1.0, "fp8", 1.0),
    "int8": (1.0, "int8", 2.0),
    "fp4": (0.5625, "fp4", 1.0),
    "int4": (0.53, "bf16", 2.0),
}


@dataclass(frozen=True)
class Placement:
    """`tensor` devices share each product, `pipeline` groups of them hold the layers one after another, `data` of those
    run side by side and share the experts, which are dealt out to `expert` groups of devices. `version` is the
    engine's, where it is known."""

    machine: MachineType
    engine: str
    precision: str
    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    version: str = ""

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def weight_bytes(self) -> float:
        return PRECISIONS[self.precision][0]

    def cache_bytes(self, shape: ModelShape) -> float:
        """On one device, of what one block keeps of a token: split as far as there are heads; latent ones are whole."""
        shared = 1 if shape.latent is not None else min(self.tensor, shape.num_key_value_heads)
        return shape.cache_width * PRECISIONS[self.precision][2] / shared / self.pipeline

    @property
    def arithmetic_rate(self) -> float:
        """Operations/s of one device in the precision's number type, or in the nearest that it has."""
        rates = self.machine.arithmetic_rate
        kinds = [PRECISIONS[self.precision][1], "bf16", "f32", "int8"]
        if self.precision == "fp4":
            kinds.insert(1, "fp8")
        return next((rates[kind].value for kind in kinds if kind in rates), 0.0)

    @property
    def hourly_usd(self) -> float | None:
        """This replica's share of a machine."""
        price = self.machine.usd_per_hour
        return None if price is None else price.value * self.devices / self.machine.devices

    def describe(self) -> str:
        parts = [
            f"{name} {size}"
            for name, size in (("tensor", self.tensor), ("pipeline", self.pipeline), ("data", self.data))
            if size > 1
        ]
        if self.expert > 1:
            parts.append(f"experts {self.expert}")
        spread = f", {' x '.join(parts)}" if parts else ""
        return f"{self.engine} {self.precision} on {self.devices} of {self.machine.name}{spread}"
