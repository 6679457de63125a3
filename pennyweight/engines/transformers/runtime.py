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
from pennyweight.engines.transformers.loading import as_logits, kernels, loaded
from pennyweight.engines.transformers.settings import Transformers

GROWTH = 128  # positions by which the store grows


class RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values: (rows, heads, positions, width). A forward adds one position to each of the first
    rows, which hold `lengths`; where `span` is set, several to that row from that position on."""

    is_compileable = False
    is_sliding = False

    def __init__(self, rows: int, stored: torch.dtype | None) -> None:
        super().__init__()
        self._capacity, self._stored = rows, stored
        self.lengths = torch.zeros(0, dtype=torch.long)
        self.span: tuple[int, int] | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        stored = self._stored or key_states.dtype
        self.keys, self.values = (
            states.new_zeros(self._capacity, states.shape[1], GROWTH, states.shape[3], dtype=stored)
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
            self._grow(end)
            self.keys[row, :, start:end] = self._kept(key_states[0])
            self.values[row, :, start:end] = self._kept(value_states[0])
            made = self.keys[row : row + 1, :, :end], self.values[row : row + 1, :, :end]
            return made[0].to(key_states.dtype), made[1].to(value_states.dtype)
        count, longest = len(self.lengths), int(self.lengths.max()) + 1
        self._grow(longest)
        rows = torch.arange(count, device=self.keys.device)
        self.keys[rows, :, self.lengths] = self._kept(key_states[:, :, 0])
        self.values[rows, :, self.lengths] = self._kept(value_states[:, :, 0])
        made = self.keys[:count, :, :longest], self.values[:count, :, :longest]
        return made[0].to(key_states.dtype), made[1].to(value_states.dtype)

    def _kept(self, states: torch.Tensor) -> torch.Tensor:
        """In the store's type; values out of range are clamped, where a plain conversion would give NaN."""
        if self._stored is None:
            return states
        most = torch.finfo(self._stored).max
        return states.clamp(-most, most).to(self._stored)

    def _grow(self, positions: int) -> None:
        missing = positions - self.keys.shape[2]
        if missing > 0:
            extra = -(-missing // GROWTH) * GROWTH
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        if self.span is not None:
            return self.span[1]
        return int(self.lengths.max()) if len(self.lengths) else 0

    def get_max_length(self) -> int:
        return -1


class TransformersRuntime(RowRuntime):
    def __init__(self, directory: Path, settings: Transformers) -> None:
        draft = settings.draft_directory(directory)
        self._model, self._device = loaded(directory, settings)
        drafting = TransformersRuntime(draft, settings.draft_settings()) if draft else None
        super().__init__(settings, drafting, Grammars(directory), vocabulary=self._model.config.vocab_size)
        stored = None if settings.kv_cache_dtype == "auto" else getattr(torch, settings.kv_cache_dtype)
        self._layers = [RowLayer(settings.slots + 1, stored) for _ in range(self._model.config.num_hidden_layers)]
        self._store = Cache(layers=self._layers)

    @torch.no_grad()
    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits:
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
        held = torch.from_numpy(lengths).to(self._device)
        for layer in self._layers:
            layer.lengths, layer.span = held, None
        seen = torch.arange(int(lengths.max()) + 1, device=self._device)[None, :] <= held[:, None]
        output = self._model(
            self._ids(tokens)[:, None],
            attention_mask=seen[:, None, None, :],
            position_ids=held[:, None],
            past_key_values=self._store,
            use_cache=True,
        )
        return as_logits(output.logits[:, 0])

    def _move(self, source: int, target: int, length: int) -> None:
        for layer in self._layers:
            layer.move(source, target, length)

    def kernels(self) -> list[str]:
        return kernels(self._model)

    def _ids(self, tokens: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(tokens, device=self._device)
