"""Any transformers decoder for text: each request keeps the cache that transformers itself makes for this model.

Windows, linear attention, state spaces and convolutions each keep something else than keys and values of all positions,
and some choose by the length of a request. So requests share no forward pass: several times slower than a batch, and
right by construction. Which models the batch of runtime.py is right for, conformance shows.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pennyweight.engines.batching.draft import Lengths
from pennyweight.engines.batching.grammar import Grammars
from pennyweight.engines.batching.rows import RowRuntime, scored, states_of
from pennyweight.engines.batching.sampling import Logits
from pennyweight.engines.transformers.loading import as_logits, kernels, loaded
from pennyweight.engines.transformers.settings import Transformers
from pennyweight.errors import EngineRefused
from pennyweight.generation import Score, States

SHARED_ONLY = ("enable_prefix_caching", "speculative_method")
WHOLE = (0, Transformers.max_num_batched_tokens)  # the default is no wish of the user's


class OwnCachesRuntime(RowRuntime):
    def __init__(self, directory: Path, settings: Transformers) -> None:
        asked = [name for name in SHARED_ONLY if getattr(settings, name)]
        asked += ["max_num_batched_tokens"] if settings.max_num_batched_tokens not in WHOLE else []
        asked += ["kv_cache_dtype"] if settings.kv_cache_dtype != "auto" else []
        if asked:
            raise EngineRefused(
                "transformers serves this architecture with a cache of its own for each request, so that "
                f"{asked[0]} is not possible: leave it out."
            )
        self._model, self._device = loaded(directory, settings)
        super().__init__(settings, None, Grammars(directory), vocabulary=self._model.config.vocab_size)
        taken = inspect.signature(self._model.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in taken else "cache_params"  # the latter of Mamba
        self._caches: list[Any] = [None] * (settings.slots + 1)

    @torch.no_grad()
    def extend(self, row: int, tokens: Sequence[int], start: int, *, every: bool) -> Logits:
        """A whole prompt: nothing of what a row held before is of use."""
        assert start == 0
        output = self._forward(tokens, 0, None, logits_to_keep=0 if every else 1)
        self._caches[row] = output[self._cache_name]
        return as_logits(output.logits[0])

    @torch.no_grad()
    def decode(self, tokens: Sequence[int], lengths: Lengths) -> Logits:
        made = []
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            output = self._forward([token], int(length), self._caches[row])
            self._caches[row] = output[self._cache_name]
            made.append(as_logits(output.logits[0, -1]))
        return np.stack(made)

    def _forward(self, tokens: Sequence[int], start: int, cache: Any, **more: Any) -> Any:
        end = start + len(tokens)
        return self._model(
            input_ids=torch.tensor([list(tokens)], device=self._device),
            attention_mask=torch.ones(1, end, dtype=torch.long, device=self._device),
            position_ids=torch.arange(start, end, device=self._device)[None],
            use_cache=True,
            **{self._cache_name: cache},
            **more,
        )

    def embed(self, tokens: Sequence[int]) -> Iterator[States]:
        with torch.no_grad():
            ids = torch.tensor([list(tokens)], device=self._device)
            states = as_logits(self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
        yield states_of(states)

    def _move(self, source: int, target: int, length: int) -> None:
        del length
        self._caches[target], self._caches[source] = self._caches[source], None

    def score(self, tokens: Sequence[int], start: int) -> Iterator[Score]:
        """In one piece: some of these caches take a prompt whole only."""
        with torch.no_grad():
            ids = torch.tensor([list(tokens[:-1])], device=self._device)
            logits = as_logits(self._model(ids, use_cache=False).logits[0])
        yield scored(logits, tokens, start - 1)

    def kernels(self) -> list[str]:
        return kernels(self._model)
