"""transformers decoders with full attention, on the row loop. (`generate` only has static batching.)"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from pennyweight.engines.batching.draft import Lengths
from pennyweight.engines.batching.grammar import Grammars
from pennyweight.engines.batching.rows import RowRuntime
from pennyweight.engines.batching.sampling import Logits
from pennyweight.engines.transformers.graphs import LEAST_POSITIONS, MOST_TOKENS, Graphs, Inputs, rounded_up
from pennyweight.engines.transformers.loading import as_logits, kernels, loaded
from pennyweight.engines.transformers.settings import Transformers

GROWTH = 128  # positions by which the store grows on a CPU; on a GPU it doubles, since graphs are recorded again


class RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values: (rows, heads, positions, width). A forward is about its `inputs`; or, where `span`
    is set, about several tokens of that row from that position on."""

    is_compileable = False
    is_sliding = False

    def __init__(self, rows: int, stored: torch.dtype | None) -> None:
        super().__init__()
        self._rows, self._stored = rows, stored
        self.inputs: Inputs | None = None
        self.span: tuple[int, int] | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        stored = self._stored or key_states.dtype
        self.keys, self.values = (
            states.new_zeros(self._rows, states.shape[1], GROWTH, states.shape[3], dtype=stored)
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def move(self, source: int, target: int, length: int) -> None:
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Keys and values up to the end of the longest row that this forward is about."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.span is not None:
            row, start = self.span
            end = start + key_states.shape[2]
            self.grow(end)
            self.keys[row, :, start:end] = self._kept(key_states[0])
            self.values[row, :, start:end] = self._kept(value_states[0])
            made = self.keys[row : row + 1, :, :end], self.values[row : row + 1, :, :end]
            return made[0].to(key_states.dtype), made[1].to(value_states.dtype)
        assert self.inputs is not None
        rows, places, end = self.inputs.rows, self.inputs.places, self.inputs.end
        self.grow(end)
        self.keys[rows[:, None], :, places] = self._kept(key_states.transpose(1, 2))
        self.values[rows[:, None], :, places] = self._kept(value_states.transpose(1, 2))
        seen = rows if self.inputs.gathered else slice(len(rows))
        return self.keys[seen, :, :end].to(key_states.dtype), self.values[seen, :, :end].to(value_states.dtype)

    def _kept(self, states: torch.Tensor) -> torch.Tensor:
        """In the store's type; values out of range are clamped, where a plain conversion would give NaN."""
        if self._stored is None:
            return states
        most = torch.finfo(self._stored).max
        return states.clamp(-most, most).to(self._stored)

    def grow(self, positions: int) -> None:
        held = self.keys.shape[2]
        if positions > held:
            wanted = rounded_up(positions, LEAST_POSITIONS) if self.keys.is_cuda else -(-positions // GROWTH) * GROWTH
            extra = wanted - held
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        if self.span is not None:
            return self.span[1]
        return 0 if self.inputs is None else max(0, self.inputs.end - self.inputs.places.shape[-1])

    def get_max_length(self) -> int:
        return -1


class TransformersRuntime(RowRuntime):
    def __init__(self, directory: Path, settings: Transformers) -> None:
        draft = settings.draft_directory(directory)
        self._model, self._device = loaded(directory, settings)
        drafting = TransformersRuntime(draft, settings.draft_settings()) if draft else None
        super().__init__(settings, drafting, Grammars(directory), vocabulary=self._model.config.vocab_size)
        stored = None if settings.kv_cache_dtype == "auto" else getattr(torch, settings.kv_cache_dtype)
        rows = settings.slots + 2  # the spare one, and one for nobody (graphs.py)
        self._layers = [RowLayer(rows, stored) for _ in range(self._model.config.num_hidden_layers)]
        self._store = Cache(layers=self._layers)
        self.chooses_on_device = self._device.type == "cuda"
        self._graphs = self._new_graphs() if self.chooses_on_device else None

    def _new_graphs(self) -> Graphs:
        return Graphs(
            self._forward, most_rows=self._settings.max_num_seqs, nobody=self._settings.slots + 1, device=self._device
        )

    @torch.no_grad()
    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits:
        graphed = self._layers[0].is_initialized and not every and 1 < len(tokens) <= MOST_TOKENS
        if self._graphs is not None and graphed:
            return as_logits(self._graphs.extend(row, tokens, start, self._room(start, len(tokens))))
        for layer in self._layers:
            layer.span = (row, start)
        places = torch.arange(start, start + len(tokens), device=self._device)[None]
        output = self._model(
            self._ids([list(tokens)]),
            position_ids=places,
            past_key_values=self._store,
            use_cache=True,
            logits_to_keep=0 if every else 1,
        )
        return as_logits(output.logits[0])

    @torch.no_grad()
    def states(self, row: int, tokens: Sequence[int], start: int) -> Logits:
        for layer in self._layers:
            layer.span = (row, start)
        places = torch.arange(start, start + len(tokens), device=self._device)[None]
        made = self._model.base_model(
            input_ids=self._ids([list(tokens)]), position_ids=places, past_key_values=self._store, use_cache=True
        )
        return as_logits(made.last_hidden_state[0])

    @torch.no_grad()
    def decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits:
        return as_logits(self._next(tokens, lengths))

    @torch.no_grad()
    def likeliest(self, tokens: Sequence[int], lengths: Lengths, count: int) -> list[list[tuple[int, float]]]:
        logprobs = torch.log_softmax(self._next(tokens, lengths).float(), dim=-1)
        values, ids = (found.tolist() for found in logprobs.topk(count))
        return [list(zip(*row, strict=True)) for row in zip(ids, values, strict=True)]

    verifies_rows = True

    @torch.no_grad()
    def verify(self, fed: Sequence[Sequence[int]], lengths: Lengths) -> Sequence[Logits]:
        """Rows are padded to the longest with their last token at its own place: it writes what is there already, and
        leads no row beyond the model's context."""
        width = max(map(len, fed))
        steps = [[min(place, len(tokens) - 1) for place in range(width)] for tokens in fed]
        places = self._ids(steps) + torch.from_numpy(lengths).to(self._device)[:, None]
        padded = self._ids([[tokens[step] for step in row] for tokens, row in zip(fed, steps, strict=True)])
        rows = torch.arange(len(fed), device=self._device)
        logits = as_logits(self._forward(Inputs(padded, rows, places, int(lengths.max()) + width)))
        return [row[: len(tokens)] for row, tokens in zip(logits, fed, strict=True)]

    def _next(self, tokens: Sequence[int], lengths: Lengths) -> torch.Tensor:
        """Logits (rows, vocabulary) on the device."""
        if self._graphs is not None:
            return self._graphs.decode(tokens, lengths, self._room(int(lengths.max()), 1))
        places = torch.from_numpy(lengths).to(self._device)[:, None]
        rows = torch.arange(len(tokens), device=self._device)
        return self._forward(Inputs(self._ids(tokens)[:, None], rows, places, int(lengths.max()) + 1))[:, 0]

    def _room(self, start: int, tokens: int) -> int:
        """The store's capacity, once it holds a graph's positions."""
        assert self._graphs is not None
        for layer in self._layers:
            layer.grow(self._graphs.positions(start, tokens))
        return self._layers[0].keys.shape[2]

    def _forward(self, inputs: Inputs) -> torch.Tensor:
        """Logits (rows, tokens, vocabulary)."""
        for layer in self._layers:
            layer.inputs, layer.span = inputs, None
        seen = torch.arange(inputs.end, device=self._device) <= inputs.places[:, :, None]
        output = self._model(
            inputs.tokens,
            attention_mask=seen[:, None],
            position_ids=inputs.places,
            past_key_values=self._store,
            use_cache=True,
            logits_to_keep=0 if inputs.last is None else inputs.last,
        )
        logits: torch.Tensor = output.logits
        return logits

    def _move(self, source: int, target: int, length: int) -> None:
        for layer in self._layers:
            layer.move(source, target, length)

    def kernels(self) -> list[str]:
        return kernels(self._model)

    def _ids(self, tokens: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(tokens, device=self._device)
