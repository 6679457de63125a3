"""What a replica holds on each of its devices: weights, activations, and keys and values."""

from __future__ import annotations

from dataclasses import dataclass

from pennyweight.plan.placement import Placement
from pennyweight.shape import ModelShape

USABLE = 0.9  # of a device's memory, as vLLM's gpu_memory_utilization
STEP_TOKENS = 8192  # whose activations a step holds at once
RESERVED = 1.5e9  # bytes of a device: its context, communication buffers, graphs


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. `cache_per_token` is of one token's keys and values there."""

    usable: float
    weights: float
    activations: float
    cache_per_token: float

    @property
    def for_cache(self) -> float:
        return self.usable - self.weights - self.activations

    @property
    def cached_tokens(self) -> float:
        """That all sequences of a rank may hold together; 0 where the weights alone do not fit."""
        return max(0.0, self.for_cache) / self.cache_per_token


def memory_of(shape: ModelShape, placement: Placement) -> Memory:
    """Weights that are not experts' are split over tensor and pipeline ranks, experts over all devices."""
    device = placement.machine.memory_bytes.value
    reserved = RESERVED if placement.machine.kind != "cpu" else 0.1 * device
    split = placement.tensor * placement.pipeline
    experts = shape.expert_parameters
    weights = ((shape.parameters - experts) / split + experts / placement.devices) * placement.weight_bytes
    width = max(shape.hidden_size * 8, 3 * max(shape.intermediate_size, shape.expert_size))
    activations = STEP_TOKENS * width * 2 / placement.tensor + reserved
    per_token = max(1, shape.lasting_layers) * placement.cache_bytes(shape)
    return Memory(USABLE * device, weights, activations, per_token)
