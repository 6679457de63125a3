"""Quantization: GGUF, GPTQ and compressed-tensors through AutoRound (Cheng et al. 2023, arxiv.org/abs/2309.05516) and
its converters, ONNX through ONNX Runtime GenAI's model builder (with static_activations.py for INT8_STATIC).

F16, BF16 and Q8_0 are conversions. Q4_0 and Q4_K_M search their scales on calibration text, and with `iterations`
above 0 tune the rounding of every block by signed gradient descent. The text should be the user's own: tuned on
foreign text, SmolLM2's perplexity improved while its chat got worse.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight import checkpoint, schemes
from pennyweight.errors import ModelError, PennyweightError, UsageError
from pennyweight.model import Model
from pennyweight.techniques import static_activations
from pennyweight.techniques.base import Technique, digest
from pennyweight.techniques.gguf_copy import copy_metadata, finish
from pennyweight.techniques.sentencepiece_file import with_sentencepiece_file

# How each scheme of schemes.py is made.
CONVERSIONS = {"F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
TUNED = {"Q4_K_M": "gguf:q4_k_m", "Q4_0": "gguf:q4_0"}
ONNX = {"FP32": "fp32", "INT8": "int8", "INT4": "int4", "INT8_STATIC": "fp32"}  # the precision passed to the builder
# AutoRound's scheme and format: checkpoints that vLLM reads.
PACKED = {"W8A8": ("INT8", "llm_compressor"), "W4A16": ("W4A16", "auto_gptq")}
SCHEMES = (*CONVERSIONS, *TUNED, *ONNX, *PACKED)

LARGEST_F16 = 65504.0
WINDOW = 256  # tokens of one calibration sample
MAX_WINDOWS = 32
BATCH = 4
GPTQ_GROUP = 32  # weights that share a scale: divides every width that a 4-bit GGUF divides
UNLISTED = ("DFLASH", "GEMMA4_ASSISTANT")
LONGEST_FAULT = 200  # characters of a library's message in ours
SEARCH_ROWS = 8192  # rows of a weight whose scales are searched at a time: what fits into the cache


@dataclass(frozen=True)
class Quantize(Technique):
    """`calibration` is text of the tuning half; only the schemes that search their scales use it. `rounding` to
    `nearest` is Q4_0 without a search, for models that were trained through just that rounding."""

    scheme: str = "Q8_0"
    iterations: int = 0
    calibration: tuple[str, ...] = ()
    rounding: str = "searched"

    name: ClassVar[str] = "quantize"
    packages: ClassVar[tuple[str, ...]] = ("auto-round", "onnxruntime-genai", "gguf")

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"Scheme {self.scheme!r} is unknown: use one of {', '.join(SCHEMES)}.")
        if self.rounding not in ("searched", "nearest"):
            raise UsageError(f"--rounding {self.rounding!r} is unknown: use searched or nearest.")
        if self.rounding == "nearest" and (self.scheme != "Q4_0" or self.iterations):
            raise UsageError("--rounding nearest is for Q4_0 without --iterations.")
        if self.iterations < 0:
            raise UsageError(f"--iterations {self.iterations} is not possible: use 0 (no tuning) or more.")
        if self.iterations and not schemes.TABLE[self.scheme].tunable:
            known = ", ".join(name for name in SCHEMES if schemes.TABLE[name].tunable)
            raise UsageError(f"{self.scheme} has nothing to tune: leave --iterations out, or use {known}.")

    def settings(self) -> dict[str, Any]:
        if self.rounding == "nearest":
            return {"scheme": self.scheme, "rounding": self.rounding}
        if not schemes.TABLE[self.scheme].calibrated:
            return {"scheme": self.scheme}
        more = static_activations.RECIPE if self.scheme == "INT8_STATIC" else {}
        return {"scheme": self.scheme, "iterations": self.iterations, "calibration": digest(self.calibration), **more}

    def result_kind(self, model: Model) -> tuple[str, str]:
        if model.format != "huggingface":
            raise ModelError(f"{model.path} is {model.format}: quantize the Hugging Face directory it was made from.")
        if schemes.TABLE[self.scheme].calibrated and self.rounding == "searched" and not self.calibration:
            raise UsageError(f"{self.scheme} needs text to calibrate on: name a workload.")
        return self.made_format, self.scheme

    @property
    def made_format(self) -> str:
        """BF16 made from a checkpoint is a GGUF file, since the checkpoint may be in BF16 already."""
        return "gguf" if self.scheme in CONVERSIONS else schemes.TABLE[self.scheme].format

    def build(self, source: Path, target: Path) -> None:
        if self.scheme == "F16":
            check_range(source)
        if self.scheme in CONVERSIONS:
            convert_to_gguf(source, target / "model.gguf", CONVERSIONS[self.scheme])
        elif self.rounding == "nearest":
            with tempfile.TemporaryDirectory(prefix="pennyweight-gguf-") as directory:
                whole = Path(directory) / "whole.gguf"
                convert_to_gguf(source, whole, "ALL_F32")
                round_gguf(whole, target / "model.gguf")
        elif self.scheme in TUNED:
            self._gguf(source, target)
        elif self.scheme in PACKED:
            self._packed(source, target)
        elif self.scheme == "INT4":
            self._onnx_int4(source, target)
        elif self.scheme == "INT8_STATIC":
            self._onnx_static(source, target)
        else:
            build_onnx(source, target, ONNX[self.scheme])
        checkpoint.copy_tokenizer(source, target)

    def _gguf(self, source: Path, target: Path) -> None:
        self._autoround(source, target / "autoround", TUNED[self.scheme], TUNED[self.scheme])
        made = sorted((target / "autoround").rglob("*.gguf"))
        if len(made) != 1:
            raise ModelError(f"AutoRound wrote {len(made)} GGUF files for {self.scheme} where one was expected.")
        made[0].rename(target / "model.gguf")
        shutil.rmtree(target / "autoround")

    def _packed(self, source: Path, target: Path) -> None:
        scheme, output_format = PACKED[self.scheme]
        more = {"group_size": GPTQ_GROUP} if self.scheme == "W4A16" else {}
        self._autoround(source, target / "autoround", scheme, output_format, **more)
        config = next((target / "autoround").rglob("config.json"), None)
        if config is None:
            raise ModelError(f"AutoRound wrote no {self.scheme} checkpoint: try another scheme.")
        for file in list(config.parent.iterdir()):
            file.rename(target / file.name)
        shutil.rmtree(target / "autoround")

    def _onnx_int4(self, source: Path, target: Path) -> None:
        """AutoRound's 4-bit weights as GPTQ, which the builder takes as they are; else the builder's own rounding."""
        with tempfile.TemporaryDirectory(prefix="pennyweight-gptq-") as directory:
            try:
                self._autoround(source, Path(directory), "W4A16", "auto_gptq", group_size=GPTQ_GROUP)
                config = next(Path(directory).rglob("config.json"), None)
                build_onnx(config.parent if config else source, target, "int4")
            except (ModelError, NotImplementedError, ValueError, KeyError, AttributeError) as error:
                for leftover in target.iterdir():
                    leftover.unlink()
                build_onnx(source, target, "int4")
                note = f"The builder does not take AutoRound's weights ({error}): these have its own rounding.\n"
                (target / "rounding.txt").write_text(note)

    def _onnx_static(self, source: Path, target: Path) -> None:
        from transformers import AutoTokenizer

        batches, _ = self._windows(AutoTokenizer.from_pretrained(source), source)
        with tempfile.TemporaryDirectory(prefix="pennyweight-onnx-") as directory:
            build_onnx(source, Path(directory), ONNX[self.scheme])
            static_activations.quantize(Path(directory), target, [batch.numpy() for batch in batches])

    def _autoround(self, source: Path, target: Path, scheme: str, output_format: str, **more: Any) -> None:
        from auto_round import AutoRound
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source)
        windows, length = self._windows(tokenizer, source)
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                faults_named(f"AutoRound cannot make {self.scheme} of this model", "use another scheme")
            )
            complete = stack.enter_context(with_sentencepiece_file(source))
            stack.enter_context(scale_search_by_rows())
            if output_format.startswith("gguf"):
                stack.enter_context(all_architectures())
                stack.enter_context(any_tokenizer(source))
            AutoRound(
                str(complete),
                tokenizer=tokenizer,
                scheme=scheme,
                iters=self.iterations,
                dataset=windows,
                nsamples=sum(len(w) for w in windows),
                seqlen=length,
                batch_size=BATCH,
                enable_torch_compile=False,
                device_map="cpu",
                low_cpu_mem_usage=False,
                trust_remote_code=False,  # a checkpoint's own code is never run; its default is to run it
                **more,
            ).quantize_and_save(str(target), format=output_format)

    def _windows(self, tokenizer: Any, source: Path) -> tuple[list[Any], int]:
        """All texts as one stream of tokens, cut into batches of equal windows."""
        import torch

        context = json.loads((source / "config.json").read_text()).get("max_position_embeddings", WINDOW)
        length = min(WINDOW, context)
        stream: list[int] = []
        for text in self.calibration:
            stream += tokenizer(text)["input_ids"]
        count = min(MAX_WINDOWS, len(stream) // length)
        if count < BATCH:
            raise ModelError(
                f"The calibration text has {len(stream)} tokens, {BATCH * length} are needed: give a longer workload."
            )
        rows = torch.tensor(stream[: count * length]).reshape(count, length)
        return [rows[start : start + BATCH] for start in range(0, count, BATCH)], length


def check_range(source: Path) -> None:
    """Raise `ModelError` for a weight that becomes infinite in 16-bit floats, and the answers with it."""
    from pennyweight.weights import Weights

    weights = Weights(source)
    for name in weights:
        largest = float(weights[name].abs().max()) if weights[name].numel() else 0.0
        if largest > LARGEST_F16:
            raise ModelError(
                f"The tensor {name} reaches {largest:.4g}, and F16 holds up to {LARGEST_F16:.0f}: use BF16 or Q8_0."
            )


def convert_to_gguf(source: Path, target: Path, file_type: str) -> None:
    """The llama.cpp converters that AutoRound ships, without AutoRound's quantizers."""
    with all_architectures(), with_sentencepiece_file(source) as complete:
        _convert(complete, target, file_type)


def _convert(source: Path, target: Path, file_type: str) -> None:
    import gguf
    import torch
    from auto_round.export.export_to_gguf.config import ModelType
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    conversion = get_conversion(str(source), model_type=ModelType.TEXT)
    try:
        parameters = conversion.ModelBase.load_hparams(source, False)
        architecture = conversion.get_model_architecture(parameters, conversion.model_type(ModelType.TEXT))
        converter = conversion.get_model_class(architecture)
    except NotImplementedError as error:
        raise ModelError(
            f"llama.cpp's converters do not know this architecture ({error}): use another engine."
        ) from None
    fault = "llama.cpp's converter cannot convert this model"
    with torch.inference_mode(), any_tokenizer(source), faults_named(fault, "use another engine"):
        converter(source, getattr(gguf.LlamaFileType, file_type), target, hparams=parameters).write()


def round_gguf(source: Path, target: Path) -> None:
    """A float32 GGUF with the blocks' matrices as Q4_0, rounded to nearest, and the others as Q8_0."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    copy_metadata(reader, writer, without=("general.file_type",))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    for tensor in reader.tensors:
        kind = gguf.GGMLQuantizationType.F32
        if len(tensor.shape) == 2:
            in_block = tensor.name.startswith("blk.")
            kind = gguf.GGMLQuantizationType.Q4_0 if in_block else gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(tensor.name, gguf.quants.quantize(tensor.data, kind), raw_dtype=kind)
    finish(writer)


@contextlib.contextmanager
def all_architectures() -> Iterator[None]:
    """AutoRound 0.16.1's converters name an architecture that gguf 0.19, the newest on PyPI, does not list, and Qwen's
    do not import for it. While the context lasts, it is listed; nothing here converts such a model."""
    import gguf

    names: Any = gguf.MODEL_ARCH
    missing = [name for name in UNLISTED if name not in names.__members__]
    for number, name in enumerate(missing):
        member = int.__new__(names, 100_000 + number)
        member._name_, member._value_ = name, 100_000 + number
        names._member_map_[name] = member
    try:
        yield
    finally:
        for name in missing:
            del names._member_map_[name]


@contextlib.contextmanager
def any_tokenizer(source: Path) -> Iterator[None]:
    """The converters refuse byte-level tokenizers that llama.cpp has not listed. Ours are carried as tokenizer.json and
    applied by the worker, so the name in the file is only llama.cpp's: unlisted ones are called `default`."""
    from auto_round.export.export_to_gguf.config import ModelType
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    text_model = get_conversion(str(source), model_type=ModelType.TEXT).module.TextModel
    listed = text_model.get_vocab_base_pre

    def listed_or_default(self: Any, tokenizer: Any) -> str:
        try:
            return str(listed(self, tokenizer))
        except NotImplementedError:
            return "default"

    text_model.get_vocab_base_pre = listed_or_default
    try:
        yield
    finally:
        text_model.get_vocab_base_pre = listed


@contextlib.contextmanager
def scale_search_by_rows() -> Iterator[None]:
    """AutoRound 0.16 searches the scales of a whole weight at once, some 200 passes over memory. In pieces that fit
    into the cache the same search gives the same scales, seven times faster. Undone when the context ends."""
    import torch
    from auto_round.data_type import int as integers

    whole = integers.search_scales

    def by_rows(data: torch.Tensor, bits: int, qw: Any = None) -> torch.Tensor:
        flat = data.reshape(-1, data.shape[-1])
        weights = qw.expand_as(data).reshape(flat.shape) if isinstance(qw, torch.Tensor) else None
        pieces = []
        for start in range(0, len(flat), SEARCH_ROWS):
            rows = slice(start, start + SEARCH_ROWS)
            pieces.append(whole(flat[rows], bits, weights[rows] if weights is not None else qw))
        return torch.cat(pieces).reshape(*data.shape[:-1], 1)

    integers.search_scales = by_rows
    try:
        yield
    finally:
        integers.search_scales = whole


def build_onnx(source: Path, target: Path, precision: str) -> None:
    """ONNX Runtime GenAI's builder, for its CPU provider, on full-precision or GPTQ weights."""
    from onnxruntime_genai.models import builder

    with tempfile.TemporaryDirectory(prefix="pennyweight-onnx-") as cache:
        options = builder.parse_extra_options(
            None, str(source), str(target), precision, "cpu", cache, ["hf_token=false"]
        )
        with faults_named("ONNX Runtime's builder cannot build this model", "use another engine"):
            builder.create_model(None, str(source), str(target), precision, "cpu", cache, **options)


@contextlib.contextmanager
def faults_named(fault: str, mend: str) -> Iterator[None]:
    """Any error of a library that converts as a `ModelError`. They raise a dozen kinds for what they do not know, so
    that a list of them would always lack one."""
    try:
        yield
    except PennyweightError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        said = lines[0][:LONGEST_FAULT].rstrip(". ")
        raise ModelError(f"{fault} ({type(error).__name__}: {said}): {mend}.") from error
