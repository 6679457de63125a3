"""What a decoder's tensors are, found by structure: which axes each has, and which block it belongs to.

A tensor's name says what it does (`q_proj`), and its shape must confirm it. Techniques keep indices along an axis and
need not know any architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pennyweight.errors import ModelError
from pennyweight.shape import OLDER_NAMES, ModelShape

if TYPE_CHECKING:
    from pennyweight.model import Model

HIDDEN, NEURON, QUERY, KEY, HEAD, TOKEN = "hidden", "neuron", "query", "key", "head", "token"
GATE_UP, QUERY_KEY_VALUE = "gate and up", "query, key and value"  # two and three matrices stacked in one
WITHIN_HEAD, ALONE = "within a head", "a single number"
HEAD_NORMS = {"q_norm": QUERY, "k_norm": KEY, "query_layernorm": QUERY, "key_layernorm": KEY}
LINEAR: Mapping[str, tuple[str, str]] = {  # last name of a linear layer -> (rows, columns) of its weight
    "q_proj": (QUERY, HIDDEN),
    "k_proj": (KEY, HIDDEN),
    "v_proj": (KEY, HIDDEN),
    "qkv_proj": (QUERY_KEY_VALUE, HIDDEN),
    "o_proj": (HIDDEN, QUERY),
    "dense": (HIDDEN, QUERY),
    "gate_proj": (NEURON, HIDDEN),
    "up_proj": (NEURON, HIDDEN),
    "fc1": (NEURON, HIDDEN),
    "c_fc": (NEURON, HIDDEN),
    "gate_up_proj": (GATE_UP, HIDDEN),
    "down_proj": (HIDDEN, NEURON),
    "fc2": (HIDDEN, NEURON),
    "c_proj": (HIDDEN, NEURON),
}
EXPERTS_HINT = " (whole experts can be dropped: pw prune --experts)"
TABLES = ("embed_tokens", "lm_head", "embed_in", "embed_out", "wte")  # a row a token
NORM = re.compile(r"norm|(^|_)ln(_|\d|$)")
IN_BLOCK = re.compile(r"(.*?\b(?:layers|h))\.(\d+)\.(.+)")
BY_BLOCK = ("layers", "layer_types", "block_type")  # endings of config keys with an entry for each block
INDICES = ("_indices", "_idxs", "mlp_only_layers")  # endings of config keys that list numbers of blocks
SCALED_EMBEDDING = ("gemma", "gemma2", "gemma3_text")  # multiplied by the root of the hidden size


@dataclass(frozen=True)
class Layout:
    """`axes`: tensor name -> the axis of each dimension, () where its structure is not known."""

    shape: ModelShape
    axes: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(shape: ModelShape, tensors: Mapping[str, tuple[int, ...]]) -> Layout:
        return Layout(shape, {name: _axes(shape, name, size) for name, size in tensors.items()})

    @staticmethod
    def of_model(model: Model) -> Layout:
        """From the headers of the checkpoint's files."""
        from pennyweight.weights import Weights

        return Layout.of(changeable(model.config), Weights(model.path).shapes)

    def refuse_unknown(self, within: str = "") -> None:
        """Raise `ModelError` for a tensor, of those whose name contains `within`, that no technique would know how to
        treat."""
        for name, axes in self.axes.items():
            if not axes and within in name:
                raise ModelError(
                    f"This technique cannot change a {self.shape.model_type} model: it does not know what the tensor "
                    f"{name} does{EXPERTS_HINT if self.shape.experts else ''}."
                )

    def find(self, layer: int, *wanted: tuple[str, ...]) -> str:
        """Module of the block's first tensor with one of these axes."""
        for name in sorted(self.axes):
            if self.axes[name] in wanted and split(name)[0] == layer:
                return name.removesuffix(".weight")
        raise ModelError(f"Block {layer} of this {self.shape.model_type} model has no tensor of {wanted[0]}.")

    def tables(self) -> list[str]:
        """Tensors with a row for each token. Raises `ModelError` where none is an embedding."""
        found = [name for name, axes in self.axes.items() if axes[:1] == (TOKEN,)]
        if not any(len(self.axes[name]) == 2 for name in found):
            raise ModelError(f"No embedding of {self.shape.vocabulary} tokens was found in this model.")
        return found


def _axes(shape: ModelShape, name: str, size: tuple[int, ...]) -> tuple[str, ...]:
    """The axes that the name promises, where the shape confirms them."""
    module, _, kind = name.rpartition(".")
    last = module.rpartition(".")[2]
    head = shape.head_width
    if size in ((), (1,)):
        return (ALONE,)
    if last in TABLES:
        promised: tuple[str, ...] = (TOKEN, HIDDEN)
    elif last in LINEAR and ".experts." not in f".{module}.":
        promised = LINEAR[last]
    elif last in HEAD_NORMS and size == (head,):
        return (WITHIN_HEAD,)
    elif last in HEAD_NORMS:
        promised = (HEAD_NORMS[last],)
    elif kind == "sinks":
        promised = (HEAD,)
    elif NORM.search(last):
        promised = (HIDDEN,)
    else:
        return ()
    promised = promised[:1] if kind == "bias" else promised
    return promised if size == tuple(_length(shape, axis) for axis in promised) else ()


def _length(shape: ModelShape, axis: str) -> int:
    keys = shape.num_key_value_heads * shape.head_width
    queries = shape.heads * shape.head_width
    return {
        HIDDEN: shape.hidden_size,
        NEURON: shape.intermediate_size,
        GATE_UP: 2 * shape.intermediate_size,
        QUERY: queries,
        KEY: keys,
        QUERY_KEY_VALUE: queries + 2 * keys,
        HEAD: shape.heads,
        TOKEN: shape.vocabulary,
        WITHIN_HEAD: shape.head_width,
    }[axis]


def sizes(shape: ModelShape, layout: Layout) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(tensor name, its size in a model of this shape) for every tensor that follows the shape."""
    for name, axes in layout.axes.items():
        if axes and axes != (ALONE,):
            yield name, tuple(_length(shape, axis) for axis in axes)


def changeable(config: Mapping[str, Any]) -> ModelShape:
    """The model's shape. Refuses one whose weights are not plain numbers any more."""
    if config.get("quantization_config"):
        raise ModelError("The checkpoint is quantized already: give the full-precision one.")
    return ModelShape.of(config)


def split(name: str) -> tuple[int | None, str]:
    """`model.layers.3.mlp.up_proj.weight` -> (3, "mlp.up_proj.weight"); (None, name) outside of the blocks."""
    matched = IN_BLOCK.fullmatch(name)
    return (int(matched[2]), matched[3]) if matched else (None, name)


def renumbered(name: str, layer: int) -> str:
    """The same tensor of another block."""
    return IN_BLOCK.sub(lambda m: f"{m[1]}.{layer}.{m[3]}", name)


def check_blocks(names: Iterable[str], shape: ModelShape) -> None:
    """Refuse a checkpoint whose blocks are not numbered from 0 to the last."""
    found = {layer for layer, _ in map(split, names) if layer is not None}
    if found != set(range(shape.layers)):
        raise ModelError(
            f"This {shape.model_type} model's tensors name {len(found)} blocks where config.json says {shape.layers}: "
            "blocks cannot be removed."
        )


def with_blocks(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The config for these blocks only: what it lists by block follows."""
    number = "num_hidden_layers" if "num_hidden_layers" in config else OLDER_NAMES["num_hidden_layers"]
    layers = int(config[number])
    places = {old: new for new, old in enumerate(kept)}
    changed = {**config, number: len(kept)}
    for key, value in config.items():
        if isinstance(value, list) and key.endswith(INDICES):
            changed[key] = [places[layer] for layer in value if layer in places]
        elif _by_block(key, value, layers):
            changed[key] = [value[layer] for layer in kept]
    if isinstance(config.get("max_window_layers"), int):
        changed["max_window_layers"] = sum(layer < config["max_window_layers"] for layer in kept)
    if isinstance(config.get("first_k_dense_replace"), int):
        changed["first_k_dense_replace"] = sum(layer < config["first_k_dense_replace"] for layer in kept)
    return changed


def _by_block(key: str, value: Any, layers: int) -> bool:
    """Does this entry of a config list something of each block?"""
    named = key.endswith(BY_BLOCK) and not key.endswith(INDICES)
    return named and isinstance(value, list) and len(value) == layers


def block_kinds(
    config: Mapping[str, Any], shape: ModelShape, tensors: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[str, ...]:
    """What tells blocks apart, by block: entries of the config, and the tensors that they have; empty where all are
    alike. A shortened model must repeat their pattern, because engines compute it instead of reading it."""
    parts: dict[int, list[str]] = {layer: [] for layer in range(shape.layers)}
    for name, size in (tensors or {}).items():
        layer, part = split(name)
        if layer in parts:
            parts[layer].append(f"{part}{size}")
    lists = [v for k, v in sorted(config.items()) if _by_block(k, v, shape.layers)]
    if shape.layer_types and config.get("layer_types") is None:
        lists.append(list(shape.layer_types))
    marked = [set(v) for k, v in config.items() if isinstance(v, list) and k.endswith(INDICES) and v]
    dense = int(config.get("first_k_dense_replace") or 0)
    kinds = tuple(
        "/".join(
            [
                *(str(values[n]) for values in lists),
                *(str(n in chosen) for chosen in marked),
                str(n < dense),
                *sorted(parts[n]),
            ]
        )
        for n in range(shape.layers)
    )
    return kinds if len(set(kinds)) > 1 else ()
