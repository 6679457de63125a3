"""The physical price of serving: seconds that weights, keys and values, products and links take at the machine's limits
(the roofline of Williams et al. 2009, doi.org/10.1145/1498765.1498785), one term each. What an engine really takes of
each term is fitted (prediction.py).

A closed loop of C requests is priced: C answers are decoded at once, and while one answer makes a token, C / its length
prompts are read. A mixture's step reads the experts that its tokens touch: of E, with k a token, E (1 - (1 - k/E)^C).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pennyweight.errors import UsageError
from pennyweight.plan.placement import Placement
from pennyweight.shape import FULL, ModelShape

Floats = NDArray[np.float64]
TOKEN_TERMS = (
    "weights",
    "keys and values",
    "products",
    "attention",
    "prompt products",
    "prompt attention",
    "links",
    "prompt links",
    "layers",
    "layers of several devices",
    "layers of experts",
    "step",
    "sequences",
    "prompts",
)
PROMPT_TERMS = (
    "products",
    "attention",
    "links",
    "products of all",
    "attention of all",
    "links of all",
    "all weights",
    "layers",
    "layers of several devices",
    "constant",
    "sequences",
    "weights",
    "keys and values",
    "weights and queue",
    "tokens",
    "tokens of all",
)
LAYER = 1e-6  # seconds, so that the coefficients of terms without a physical limit are microseconds


@dataclass(frozen=True)
class Load:
    """`concurrency` requests at a time on one replica, each of so many prompt and answer tokens."""

    prompt_tokens: float
    output_tokens: float
    concurrency: float

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.output_tokens, self.concurrency) < 1:
            raise UsageError(f"A load of {self} cannot be planned: give at least one token and one request.")


@dataclass(frozen=True)
class Terms:
    """Seconds of a token of each answer, (len(TOKEN_TERMS),), and of the first one, (len(PROMPT_TERMS),)."""

    token: Floats
    prompt: Floats


def terms_of(shape: ModelShape, placement: Placement, load: Load) -> Terms:
    price = _Price(shape, placement, load)
    return Terms(np.array(price.token(), np.float64), np.array(price.prompt(), np.float64))


class _Price:
    def __init__(self, shape: ModelShape, placement: Placement, load: Load) -> None:
        self.shape, self.placement, self.load = shape, placement, load
        machine, self.devices = placement.machine, placement.devices
        self.bandwidth, self.rate = machine.memory_bandwidth.value, placement.arithmetic_rate
        rates = machine.arithmetic_rate
        self.attention_rate = rates["bf16"].value if "bf16" in rates else self.rate
        self.link = machine.link_bandwidth.value if machine.link_bandwidth is not None else self.bandwidth / 10
        self.each = load.concurrency / placement.data  # sequences of one attention rank
        self.context = load.prompt_tokens + load.output_tokens / 2
        self.prompts = load.prompt_tokens / load.output_tokens  # prompt tokens for each token of an answer
        self.full = (shape.layers_of(FULL) or shape.layers) / shape.layers  # share of layers that attend to all
        self.kept_bytes = shape.lasting_layers * placement.cache_bytes(shape)  # of one token, on one device
        self.layers, self.split = shape.layers, placement.tensor * placement.pipeline

    def token(self) -> list[float]:
        products, links = self._products(self.load.concurrency), self._links(self.each)
        attended = self.each * self.context * self._attention_width() * 4 / self.split / self.attention_rate
        read = self.each * self.context * self.kept_bytes / self.bandwidth
        prompt_pairs = 2 * self.each * self.prompts * self.load.prompt_tokens * self._attention_width()
        several, experts = float(self.devices > 1), float(self.shape.experts > 0)
        each = self.layers * LAYER
        return [
            *(self._weights(self.load.concurrency), read, products, attended),
            *(products * self.prompts, prompt_pairs / self.split / self.attention_rate),
            *(links, links * self.prompts, each, each * several, each * experts, 1e-3),
            *(self.each * 1e-6, self.each * self.prompts * 1e-3),
        ]

    def prompt(self) -> list[float]:
        tokens, everybody = self.load.prompt_tokens, self.load.concurrency
        products, links = self._products(tokens), self._links(tokens)
        pairs = 2 * tokens**2 * self._attention_width() / self.split / self.attention_rate
        weights = self._weights(everybody)
        read = self.each * self.context * self.kept_bytes / self.bandwidth
        each = self.layers * LAYER
        return [
            *(products, pairs, links, products * everybody, pairs * everybody, links * everybody),
            *(self._weights(self.load.concurrency * tokens), each, each * float(self.devices > 1), 1e-2),
            *(everybody * 1e-3, weights, read, weights * everybody**0.5, tokens * 1e-6, tokens * everybody * 1e-6),
        ]

    def _weights(self, tokens: float) -> float:
        """Reading those that so many tokens touch."""
        shape, placement = self.shape, self.placement
        touched = 0.0
        if shape.experts:
            touched = shape.expert_parameters * (1 - (1 - shape.experts_per_token / shape.experts) ** tokens)
        other = self._other_parameters() * self._other_bytes() / self.split
        return (other + touched * placement.weight_bytes / self.devices) / self.bandwidth

    def _other_parameters(self) -> float:
        """All that are multiplied with each token."""
        shape = self.shape
        embedding = 0 if shape.tied else shape.vocabulary * shape.hidden_size  # only looked up
        return float(shape.parameters - shape.expert_parameters - embedding)

    def _other_bytes(self) -> float:
        """In 4-bit mixtures the other weights are usually kept in 8 or 16."""
        if not self.shape.experts or self.placement.weight_bytes >= 1:
            return self.placement.weight_bytes
        return 1.0 if self.shape.latent is not None else 2.0

    def _products(self, tokens: float) -> float:
        shape = self.shape
        used = self._other_parameters()
        if shape.experts:
            used += shape.expert_parameters * shape.experts_per_token / shape.experts
        return 2 * used * tokens / self.devices / max(self.rate, 1.0)

    def _attention_width(self) -> float:
        """Query channels of all layers that attend to all tokens."""
        shape = self.shape
        head = shape.latent.kept if shape.latent is not None else shape.head_width
        return self.full * shape.layers * shape.heads * head

    def _links(self, tokens: float) -> float:
        """Two all-reduces a layer over the tensor ranks, and each token's way to its experts and back."""
        shape, tensor = self.shape, self.placement.tensor
        width = 2 * shape.hidden_size  # bytes of a token
        found = 0.0
        if tensor > 1:
            found += shape.layers * 2 * tokens * width * 2 * (tensor - 1) / tensor / self.link
        if shape.experts and self.placement.expert > 1:
            found += shape.layers * 2 * tokens / tensor * width * shape.experts_per_token / self.link
        if self.placement.pipeline > 1:
            found += (self.placement.pipeline - 1) * tokens * width / self.link
        return found
