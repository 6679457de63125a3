"""OpenVINO GenAI: reads GGUF, batches continuously, caches prefixes. The default engine on CPUs."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pennyweight.engines.base import Runtime
from pennyweight.engines.speculation import SPECULATION_PRESETS, Speculating
from pennyweight.errors import EngineRefused
from pennyweight.generation import (
    SCORED_TOPS,
    Event,
    Finish,
    Form,
    Generation,
    Score,
    States,
    choice_grammar,
    derived_seed,
    pieces_of,
)
from pennyweight.hardware import Efficiency, Hardware, available_cores

KV_CACHE_DTYPES = ("auto", "u8", "f16", "bf16", "f32")
FEW_STREAMS = 4  # up to this many, memory bandwidth is the limit and float32 costs nothing (1.2x faster at 1)
SUPERBLOCK = 256  # weights of one K-quant block
KERNEL_PROMPT = 32  # tokens
COMPILE_POLL_SECONDS = 0.002
MAX_MIN_P = 0.9999  # of what the pipeline takes; 1 means the likeliest token alone
PRECISIONS = ("auto", "f32", "bf16", "f16")


@dataclass(frozen=True)
class OpenVINO(Speculating):
    """`max_num_batched_tokens` bounds the tokens of one step, so long prompts are processed in chunks.

    `dynamic_quantization_group_size`: how many activations share a scale when float32 activations are rounded to
    8 bits for multiplication with quantized weights; 0: no rounding; -1: OpenVINO's default.
    """

    max_num_batched_tokens: int = 512
    enable_prefix_caching: bool = False
    kv_cache_dtype: str = "auto"
    inference_precision: str = "auto"
    dynamic_quantization_group_size: int = -1

    name: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("openvino_genai", "openvino")
    model_format: ClassVar[str] = "gguf"
    efficiency: ClassVar[Mapping[str, Efficiency]] = {
        "": Efficiency(0.55, {"f32": 0.5, "bf16": 0.40, "int8": 0.40}, layer_seconds=0.00015)
    }
    colour: ClassVar[str] = "#2a78d6"
    schemes: ClassVar[tuple[str, ...]] = ("F16", "Q8_0", "Q4_K_M", "Q4_0")
    conforms: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "prefix caching": {"enable_prefix_caching": True},
        "bf16 cache": {"kv_cache_dtype": "bf16"},
        "float32 arithmetic": {"inference_precision": "f32"},
        "small steps": {"max_num_batched_tokens": 64},
        **SPECULATION_PRESETS,
    }
    tested: ClassVar[tuple[str, str]] = ("2026.4", "2027")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "kv_cache_dtype": KV_CACHE_DTYPES,
        "inference_precision": PRECISIONS,
    }
    forms: ClassVar[tuple[str, ...]] = ("json_schema", "choice")
    answer_fields: ClassVar[tuple[str, ...]] = (
        *Speculating.answer_fields,
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "min_tokens",
    )
    embeds: ClassVar[bool] = True
    max_top_logprobs: ClassVar[int] = 0  # the pipeline reports only the sampled token's log-probability

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_num_batched_tokens < 16:
            raise EngineRefused(
                f"openvino: max_num_batched_tokens={self.max_num_batched_tokens} is too few: use 16 or more."
            )
        if self.dynamic_quantization_group_size < -1:
            raise EngineRefused(
                f"openvino: dynamic_quantization_group_size={self.dynamic_quantization_group_size} is no size: use -1 "
                "(as OpenVINO likes), 0 (activations stay as they are), or a number of activations."
            )

    @classmethod
    def refuse_early(cls, config: Mapping[str, Any], scheme: str) -> None:
        super().refuse_early(config, scheme)
        widths = [config.get(name) or SUPERBLOCK for name in ("hidden_size", "intermediate_size")]
        if scheme == "Q4_K_M" and any(width % SUPERBLOCK for width in widths):
            raise EngineRefused(
                f"openvino cannot read Q4_K_M of widths {widths}: widths that are no multiple of {SUPERBLOCK} use "
                "Q5_0, which it does not support; use Q8_0 or Q4_0."
            )

    @classmethod
    def refuse_files(cls, directory: Path) -> None:
        """GGUF files of SentencePiece-like tokenizers hold no merges, and the pipeline ends with `map::at` on them."""
        file = directory / "tokenizer.json"
        if file.exists() and '"ByteFallback"' in file.read_text(encoding="utf-8"):
            raise EngineRefused(
                "openvino loads GGUF files with byte-level tokenizers only, and this model's tokenizer falls back to "
                "bytes as SentencePiece does: use onnxruntime, llamacpp or transformers."
            )

    def search_settings(self, hardware: Hardware, streams: int, longest: int) -> Mapping[str, tuple[Any, ...]]:
        del longest
        has_bfloat16 = "avx512_bf16" in hardware.flags or "amx_bf16" in hardware.flags
        choices: dict[str, tuple[Any, ...]] = {
            "kv_cache_dtype": ("auto", "bf16") if has_bfloat16 else ("auto",),  # elsewhere it does not load
            "enable_prefix_caching": (False, True),
        }
        if has_bfloat16 and streams <= FEW_STREAMS:
            choices["inference_precision"] = ("auto", "f32")  # auto is bf16 there
        return choices

    def load(self, directory: Path) -> Runtime:
        return OpenVINORuntime(directory, self)


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
            _save_draft(Path(settings.draft_model) / settings.draft_file, Path(self._draft.name), self._properties)
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
        return self._genai.StructuredOutputConfig(json_schema=form.text)

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


class Scorer:
    """The same weights and kernels as a plain stateful model, which gives the most likely token at every position; the
    pipeline's `echo` gives only the log-probability of the prompt's own token.

    The graph is extended to return these few numbers per position instead of logits for the whole vocabulary.
    """

    def __init__(self, file: Path, properties: Mapping[str, Any]) -> None:
        import openvino

        core = openvino.Core()
        with tempfile.TemporaryDirectory(prefix="pennyweight-ov-") as directory:
            model = core.read_model(_saved_graph(file, Path(directory), properties))
            self._vocabulary = model.output("logits").get_partial_shape()[2].get_length()
            _return_scores(model)
            self._request = core.compile_model(model, "CPU", dict(properties)).create_infer_request()

    def score(self, tokens: Sequence[int], start: int) -> Iterator[Score]:
        ids = np.asarray([tokens], dtype=np.int64)
        for begin, _ in self._run(ids, len(tokens) - 1):
            first = max(0, start - 1 - begin)
            names = ("own", "top", "top_logprob")
            own, tops, logprobs = (self._request.get_tensor(name).data[0, first:].tolist() for name in names)
            yield Score(own, [list(zip(*pair, strict=True)) for pair in zip(tops, logprobs, strict=True)])

    def embed(self, tokens: Sequence[int]) -> Iterator[States]:
        ids = np.asarray([tokens], dtype=np.int64)
        for begin, end in self._run(ids, len(tokens)):
            states = self._request.get_tensor("hidden").data[0]
            yield States(end - begin, states.sum(axis=0, dtype=np.float64).tolist(), states[-1].tolist())

    def _run(self, ids: NDArray[np.int64], count: int) -> Iterator[tuple[int, int]]:
        """Forward over the first `count` ids, piece by piece; the last one needs no token that follows."""
        self._request.reset_state()
        targets = np.append(ids[:, 1:], ids[:, :1], axis=1)
        for begin, end in pieces_of(count, self._vocabulary):
            self._request.infer(
                {
                    "input_ids": ids[:, begin:end],
                    "attention_mask": np.ones((1, end), np.int64),
                    "position_ids": np.arange(begin, end)[None],
                    "beam_idx": np.zeros(1, dtype=np.int32),
                    "targets": targets[:, begin:end],
                }
            )
            yield begin, end

    def kernels(self) -> list[str]:
        """As the execution graph names them; available only after a prompt was processed."""
        counted: Counter[str] = Counter()
        for node in self._request.get_compiled_model().get_runtime_model().get_ordered_ops():
            info = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
            if info.get("layerType") in ("FullyConnected", "MatMul"):
                counted[f"{info['primitiveType']} on {info['runtimePrecision']} weights"] += 1
        return [f"{count} x {name}" for name, count in counted.most_common()]


def _saved_graph(file: Path, directory: Path, properties: Mapping[str, Any]) -> str:
    """OpenVINO's own form of the GGUF. GenAI writes it beside its input file, so it reads a link elsewhere."""
    import openvino_genai

    link = directory / "model.gguf"
    link.symlink_to(file)
    small = openvino_genai.SchedulerConfig()
    small.num_kv_blocks = 16
    openvino_genai.ContinuousBatchingPipeline(str(link), small, "CPU", {**properties, "enable_save_ov_model": True})
    return str(directory / "openvino_model.xml")


def _save_draft(file: Path, directory: Path, properties: Mapping[str, Any]) -> None:
    """A draft is read in OpenVINO's own form only, with its tokenizer."""
    import openvino_genai

    _saved_graph(file, directory, properties)
    openvino_genai.Tokenizer(str(directory / "model.gguf"), enable_save_ov_model=True)


def _return_scores(model: Any) -> None:
    """Replace the logits by: log-probability of `targets` (1, n), the likeliest tokens and their log-probabilities
    (1, n, SCORED_TOPS)."""
    import openvino.opset13 as op

    result = model.output("logits").get_node()
    logits = result.input_value(0)
    targets = op.parameter([-1, -1], np.int64, name="targets")
    targets.output(0).set_names({"targets"})
    last = op.constant(np.array([-1], np.int64))
    best = op.topk(logits, op.constant(np.int64(SCORED_TOPS)), -1, "max", "value", index_element_type="i64")
    peak = op.reduce_max(best.output(0), last, True)
    spread = op.log(op.reduce_sum(op.exp(op.subtract(logits, peak)), last, True))  # log-sum-exp above the peak
    chosen = op.gather_elements(logits, op.unsqueeze(targets, last), 2)
    own = op.squeeze(op.subtract(op.subtract(chosen, peak), spread), last)
    top_logprob = op.subtract(op.subtract(best.output(0), peak), spread)
    head = logits.get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    hidden = op.convert(head.input_value(0), "f32")
    outputs = {"own": own.output(0), "top": best.output(1), "top_logprob": top_logprob.output(0)}
    outputs["hidden"] = hidden.output(0)
    for name, output in outputs.items():
        output.set_names({name})
    model.remove_result(result)
    model.add_parameters([targets])
    model.add_outputs(list(outputs.values()))
    model.validate_nodes_and_infer_types()


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
