"""OpenVINO GenAI's pipeline, stepped in a driver process; scores and embeddings by a second model (scorer.py)."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from pennyweight.engines.openvino.json_grammar import json_grammar
from pennyweight.engines.openvino.saving import saved_graph
from pennyweight.engines.openvino.scorer import Scorer
from pennyweight.engines.openvino.settings import OpenVINO
from pennyweight.generation import Event, Finish, Form, Generation, Score, States, choice_grammar, derived_seed
from pennyweight.hardware import available_cores

KERNEL_PROMPT = 32  # tokens
COMPILE_POLL_SECONDS = 0.002
MAX_MIN_P = 0.9999  # of what the pipeline takes; 1 means the likeliest token alone


class OpenVINORuntime:
    def __init__(self, directory: Path, settings: OpenVINO) -> None:
        import openvino
        import openvino_genai

        self._openvino, self._genai = openvino, openvino_genai
        self._file = directory / "model.gguf"
        self._properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": settings.num_threads or available_cores()}
        for name, value in (
            ("KV_CACHE_PRECISION", settings.kv_cache_dtype),
            ("INFERENCE_PRECISION_HINT", settings.inference_precision),
        ):
            if value != "auto":
                self._properties[name] = value
        if settings.dynamic_quantization_group_size >= 0:
            self._properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = settings.dynamic_quantization_group_size
        schedule = openvino_genai.SchedulerConfig()
        schedule.max_num_seqs = settings.max_num_seqs
        schedule.max_num_batched_tokens = settings.max_num_batched_tokens
        schedule.enable_prefix_caching = settings.enable_prefix_caching
        schedule.cache_size = 0  # grow with use: a preallocated cache would be reported as memory that is needed
        self._speculates: dict[str, int] = {}
        properties = dict(self._properties)
        if settings.speculative_method:
            self._speculates["num_assistant_tokens"] = settings.num_speculative_tokens
        if settings.speculative_method == "draft_model":
            self._draft = tempfile.TemporaryDirectory(prefix="pennyweight-ov-")
            draft = Path(settings.draft_model) / settings.draft_file  # read in OpenVINO's own form only
            saved_graph(draft, Path(self._draft.name), self._properties, tokenizer=True)
            properties["draft_model"] = openvino_genai.draft_model(self._draft.name, "CPU", **self._properties)
        elif settings.speculative_method == "ngram":
            self._speculates["max_ngram_size"] = settings.prompt_lookup_max
            properties["prompt_lookup"] = True
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(self._file), schedule, "CPU", properties)
        self._max_num_seqs = settings.max_num_seqs  # the pipeline exceeds its own limit while it splits prompts
        self._waiting: deque[tuple[Generation, Any]] = deque()  # with its configuration
        self._handles: dict[str, tuple[Any, Generation]] = {}
        self._numbers = 0
        self._compiling: Future[Scorer] | None = None

    def submit(self, generation: Generation) -> None:
        configuration = self._configuration(generation)
        configuration.validate()  # an error raised here fails this request only; raised in a step it would fail all
        self._waiting.append((generation, configuration))

    def _configuration(self, generation: Generation) -> Any:
        settings: dict[str, Any] = {
            "max_new_tokens": generation.max_tokens,
            "do_sample": generation.temperature > 0,
            **self._speculates,
        }
        if generation.temperature > 0:
            settings |= {
                "temperature": generation.temperature,
                "top_p": generation.top_p,
                "rng_seed": derived_seed(generation),
            }
            settings |= {"top_k": generation.top_k} if generation.top_k else {}
            settings |= {"min_p": min(generation.min_p, MAX_MIN_P)} if generation.min_p else {}
        if generation.stop_tokens:
            settings |= {"eos_token_id": generation.stop_tokens[0], "stop_token_ids": set(generation.stop_tokens)}
        else:
            settings["ignore_eos"] = True
        if generation.top_logprobs is not None:
            settings["logprobs"] = 1
        for name, value, nothing in (
            ("presence_penalty", generation.presence_penalty, 0),
            ("frequency_penalty", generation.frequency_penalty, 0),
            ("repetition_penalty", generation.repetition_penalty, 1),
            ("min_new_tokens", generation.min_tokens, 0),
        ):
            if value != nothing:
                settings[name] = value
        if generation.form is not None:
            settings["structured_output_config"] = self._followed(generation.form)
        return self._genai.GenerationConfig(**settings)

    def _followed(self, form: Form) -> Any:
        if form.kind == "choice":
            return self._genai.StructuredOutputConfig(grammar=choice_grammar(json.loads(form.text)))
        grammar = json_grammar(json.loads(form.text), compact=form.compact)
        return self._genai.StructuredOutputConfig(grammar=grammar)

    def _admit(self, generation: Generation, configuration: Any) -> None:
        self._numbers += 1
        prompt = self._openvino.Tensor(np.asarray([generation.prompt], dtype=np.int64))
        handle = self._pipeline.add_request(self._numbers, prompt, configuration)
        self._handles[generation.id] = (handle, generation)

    def step(self) -> list[Event]:
        while self._waiting and len(self._handles) < self._max_num_seqs:
            self._admit(*self._waiting.popleft())
        self._pipeline.step()
        events = []
        for handle, generation in list(self._handles.values()):
            event = self._read(handle, generation)
            if event is not None:
                events.append(event)
                if event.finish:
                    del self._handles[generation.id]
        return events

    def _read(self, handle: Any, generation: Generation) -> Event | None:
        statuses = self._genai.GenerationStatus
        status = handle.get_status()  # before reading, so that no tokens are missed between the two calls
        tokens: list[int] = []
        logprobs: list[float] = []
        reason = None
        while status not in (statuses.CANCEL, statuses.STOP) and handle.can_read():
            for output in handle.read().values():
                tokens.extend(output.generated_ids)
                logprobs.extend(output.generated_log_probs)
                reason = output.finish_reason
        if status == statuses.RUNNING:
            return Event(generation.id, tokens, _matching(logprobs, tokens)) if tokens else None
        if status != statuses.FINISHED:
            return Event(generation.id, finish="error", error=f"OpenVINO ended the request as {status.name}")
        finish: Finish = "length" if reason == self._genai.GenerationFinishReason.LENGTH else "stop"
        if tokens and tokens[-1] in generation.stop_tokens:
            tokens, finish = tokens[:-1], "stop"
        return Event(generation.id, tokens, _matching(logprobs, tokens), finish=finish)

    def cancel(self, generation_id: str) -> None:
        self._waiting = deque(waiting for waiting in self._waiting if waiting[0].id != generation_id)
        handle, _ = self._handles.pop(generation_id, (None, None))
        if handle is not None:
            handle.cancel()

    def score(self, tokens: Sequence[int], start: int) -> Iterator[Score]:
        """The first one waits for the scorer, which is compiled beside the steps."""
        while not self._compiled().done():
            time.sleep(COMPILE_POLL_SECONDS)
            yield Score((), ())
        yield from self._compiled().result().score(tokens, start)

    def embed(self, tokens: Sequence[int]) -> Iterator[States]:
        while not self._compiled().done():
            time.sleep(COMPILE_POLL_SECONDS)
            yield States(0, (), ())
        yield from self._compiled().result().embed(tokens)

    def _compiled(self) -> Future[Scorer]:
        if self._compiling is None:
            self._compiling = _in_a_thread(lambda: Scorer(self._file, self._properties))
        return self._compiling

    def kernels(self) -> list[str]:
        for _ in self.score(range(KERNEL_PROMPT), 1):
            pass
        return self._compiled().result().kernels()

    def close(self) -> None:
        self._handles.clear()


def _matching(logprobs: list[float], tokens: list[int]) -> Sequence[float]:
    return logprobs[: len(tokens)] if len(logprobs) >= len(tokens) else [0.0] * len(tokens)


def _in_a_thread(make: Callable[[], Scorer]) -> Future[Scorer]:
    made: Future[Scorer] = Future()

    def work() -> None:
        try:
            made.set_result(make())
        except BaseException as error:  # told to whoever asks for a score
            made.set_exception(error)

    threading.Thread(target=work, name="openvino-scorer", daemon=True).start()
    return made
