"""The scripted engine: predictable answers at set speeds, shipped so that users can test their own code.

It needs a model directory for its tokenizer only. The answer repeats the prompt's own tokens in order (so that tests
can predict it), one token per running request and step; a step takes `step_ms`, a prompt `prefill_ms` once. A prompt
that is an earlier one with a part of its answer is gone on with, as a model would.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pennyweight.engines.base import Engine, Runtime
from pennyweight.errors import EngineError, EngineRefused
from pennyweight.generation import Event, Finish, Generation, Score, States

PROMPTS_KEPT = 256
SCORED_AT_ONCE = 64  # tokens


@dataclass(frozen=True)
class Scripted(Engine):
    """`fault` breaks it on purpose: `load` (refuses to load), `slow_load` (never gets ready), `die` (exits after
    `fault_after` tokens), `hang` (stops stepping after them), `forget` (drops one request silently), `refuse`
    (takes no request) or `poison` (exits at a prompt of exactly `fault_after` tokens)."""

    step_ms: float = 0.0
    prefill_ms: float = 0.0
    loss: float = 0.0  # added to the negative log-probability of every token
    memory_mib: int = 0
    fault: str = ""
    fault_after: int = 0

    name: ClassVar[str] = "scripted"
    packages: ClassVar[tuple[str, ...]] = ()
    model_format: ClassVar[str] = "huggingface"
    schemes: ClassVar[tuple[str, ...]] = ("BF16", "F32", "F16")
    max_top_logprobs: ClassVar[int] = 20

    def load(self, directory: Path) -> Runtime:
        del directory  # the tokenizer is the worker's business
        if self.fault == "load":
            raise EngineError("scripted: asked to fail while loading: remove the setting fault=load.")
        if self.fault == "slow_load":
            time.sleep(3600)
        return ScriptedRuntime(self)


class ScriptedRuntime:
    def __init__(self, settings: Scripted) -> None:
        self._settings = settings
        self._running: dict[str, tuple[Generation, int]] = {}  # with the place of the next token
        self._prompts: deque[tuple[int, ...]] = deque(maxlen=PROMPTS_KEPT)
        self._made = 0
        self._forgotten: str | None = None
        self._ballast = bytearray(os.urandom(1) * (settings.memory_mib << 20))

    def submit(self, generation: Generation) -> None:
        if self._settings.fault == "refuse":
            raise EngineRefused("scripted: asked to refuse.")
        if self._settings.fault == "poison" and len(generation.prompt) == self._settings.fault_after:
            os._exit(9)
        if self._settings.prefill_ms:
            time.sleep(self._settings.prefill_ms / 1000)
        prompt = tuple(generation.prompt)
        base = next((known for known in self._prompts if _goes_on(prompt, known)), prompt)
        self._prompts.append(base)
        self._running[generation.id] = (replace(generation, prompt=base), len(prompt) - len(base))

    def step(self) -> list[Event]:
        self._misbehave()
        if self._settings.step_ms:
            time.sleep(self._settings.step_ms / 1000)
        events = []
        for generation, position in list(self._running.values())[: self._settings.max_num_seqs]:
            if generation.id == self._forgotten:
                continue
            token = generation.prompt[position % len(generation.prompt)]
            left = replace(generation, max_tokens=generation.max_tokens - 1)
            finish: Finish | None = None if left.max_tokens else "length"
            logprob = -0.5 - self._settings.loss
            alternatives = [[(token, logprob)]] if generation.top_logprobs else ()
            events.append(Event(generation.id, (token,), (logprob,), alternatives, finish))
            if finish:
                del self._running[generation.id]
            else:
                self._running[generation.id] = (left, position + 1)
        self._made += len(events)
        return events

    def _misbehave(self) -> None:
        if self._settings.fault and self._made >= self._settings.fault_after:
            if self._settings.fault == "die":
                os._exit(9)
            if self._settings.fault == "hang":
                time.sleep(3600)
            if self._settings.fault == "forget" and self._forgotten is None:
                self._forgotten = next(iter(self._running), None)

    def cancel(self, generation_id: str) -> None:
        self._running.pop(generation_id, None)

    def score(self, tokens: Sequence[int], start: int) -> Iterator[Score]:
        for begin in range(start, len(tokens), SCORED_AT_ONCE):
            part = tokens[begin : begin + SCORED_AT_ONCE]
            logprobs = [-0.5 - self._settings.loss] * len(part)
            if self._settings.prefill_ms:
                time.sleep(self._settings.prefill_ms / 1000)
            yield Score(logprobs, [[pair] for pair in zip(part, logprobs, strict=True)])

    def embed(self, tokens: Sequence[int]) -> Iterator[States]:
        raise EngineRefused(f"scripted: {len(tokens)} tokens have no hidden states here.")

    def kernels(self) -> list[str]:
        return ["scripted answers: no matrix multiplication"]

    def close(self) -> None:
        self._running.clear()


def _goes_on(prompt: tuple[int, ...], known: tuple[int, ...]) -> bool:
    """Is this prompt the known one with the beginning of its answer?"""
    rest = prompt[len(known) :]
    return bool(rest) and prompt[: len(known)] == known and rest == (known * (len(rest) // len(known) + 1))[: len(rest)]
