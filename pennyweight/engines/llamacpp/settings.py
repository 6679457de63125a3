"""llama.cpp: `llama-server`, built for this very CPU or found on the PATH. Any GGUF; the fastest at one stream."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.engines.speculation import SPECULATION_PRESETS, Speculating
from pennyweight.errors import EngineRefused
from pennyweight.hardware import Efficiency, Hardware, available_cores, free_memory, has_cuda
from pennyweight.install import environments
from pennyweight.install.environments import Command, Recipe
from pennyweight.shape import ModelShape

KV_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
SOURCE = "llama_cpp_python"
SOURCE_VERSION = "0.3.36"
PROGRAM = "llama-server"
DEFAULT_LENGTH = 4096
DEFAULT_SLOTS = 8
GEMMA_PATTERN = 6  # blocks; not stored in the GGUF; a wrong value silently gives wrong positions


def _commands(home: Path) -> list[Command]:
    """From the source inside the sdist of llama-cpp-python to one statically linked program."""
    unpacked = home / f"{SOURCE}-{SOURCE_VERSION}"
    build, pip = home / "build", str(home / "venv" / "bin" / "pip")
    cuda = ("-DGGML_CUDA=ON",) if has_cuda() and shutil.which("nvcc") else ()
    off = ("BUILD_SHARED_LIBS", "LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES")
    return [
        *environments.fresh_venv(home),
        Command("fetching build tools", (pip, "install", "cmake>=3.28,<5", "ninja>=1.11")),
        Command(
            "fetching the source",
            (
                pip,
                "download",
                "--no-deps",
                "--no-binary",
                "llama-cpp-python",
                "--dest",
                str(home),
                f"llama-cpp-python=={SOURCE_VERSION}",
            ),
        ),
        Command("unpacking", (environments.PYTHON, "-m", "tarfile", "-e", f"{unpacked}.tar.gz", str(home))),
        Command(
            "configuring",
            (
                "cmake",
                "-G",
                "Ninja",
                "-S",
                str(unpacked / "vendor" / "llama.cpp"),
                "-B",
                str(build),
                "-DCMAKE_BUILD_TYPE=Release",
                "-DGGML_NATIVE=ON",
                *cuda,
                *(f"-D{name}=OFF" for name in off),
            ),
        ),
        Command("building", ("cmake", "--build", str(build), "--target", PROGRAM, "-j", str(available_cores()))),
        Command("keeping the program", ("cmake", "-E", "copy", str(build / "bin" / PROGRAM), str(home / PROGRAM))),
        Command(
            "tidying up",
            (
                environments.PYTHON,
                "-c",
                "import shutil, sys; [shutil.rmtree(p, True) for p in sys.argv[1:]]",
                str(build),
                str(unpacked),
                str(home / "venv"),
            ),
        ),
    ]


@cache
def version_of(program: str, _changed: int) -> str:
    """The version that the program prints. Cached, because a search reads it many times."""
    try:
        ran = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"version: (\S+)", ran.stdout + ran.stderr)
    return found[1] if found else "unknown"


@dataclass(frozen=True)
class LlamaCpp(Speculating):
    """Every slot of the server has room for `max_model_len` tokens of prompt and answer (0: the model's context, at
    most 4,096), all of it allocated when it starts. So there are fewer slots by default than on other engines."""

    max_num_seqs: int = DEFAULT_SLOTS
    max_model_len: int = 0
    max_num_batched_tokens: int = 512
    enable_prefix_caching: bool = False
    kv_cache_dtype: str = "auto"
    flash_attention: str = "auto"

    name: ClassVar[str] = "llamacpp"
    server: ClassVar[str] = "pennyweight.engines.llamacpp.backend:LlamaBackend"
    packages: ClassVar[tuple[str, ...]] = ()
    model_format: ClassVar[str] = "gguf"
    efficiency: ClassVar[Mapping[str, Efficiency]] = {
        "": Efficiency(0.6, {"f32": 0.3, "bf16": 0.2, "int8": 0.2}, layer_seconds=0.0001)
    }
    colour: ClassVar[str] = "#c2418c"
    schemes: ClassVar[tuple[str, ...]] = ("BF16", "F16", "Q8_0", "Q4_K_M", "Q4_0")
    conforms: ClassVar[bool] = True
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "kv_cache_dtype": ("auto", *KV_BYTES),
        "flash_attention": ("auto", "on", "off"),
    }
    max_top_logprobs: ClassVar[int] = 20
    forms: ClassVar[tuple[str, ...]] = ("json_schema", "choice", "grammar")
    # its penalties of presence and frequency count the prompt's tokens too, which is another meaning: not followed
    answer_fields: ClassVar[tuple[str, ...]] = (
        *Speculating.answer_fields,
        "top_k",
        "min_p",
        "repetition_penalty",
        "logit_bias",
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "prefix caching": {"enable_prefix_caching": True},
        "8-bit cache": {"kv_cache_dtype": "q8_0"},
        "4-bit cache": {"kv_cache_dtype": "q4_0"},
        "no flash attention": {"flash_attention": "off"},
        "small steps": {"max_num_batched_tokens": 64},
        **SPECULATION_PRESETS,
    }
    tested: ClassVar[tuple[str, str]] = ("0.5.0", "0.6")
    recipe: ClassVar[Recipe | None] = Recipe(
        f"llama-cpp-python {SOURCE_VERSION}", _commands, needs=("c++",), minutes=5, disk_bytes=2 * 10**9
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flash_attention == "off" and self.kv_cache_dtype in ("q8_0", "q4_0"):
            raise EngineRefused(
                f"llamacpp: kv_cache_dtype={self.kv_cache_dtype} needs flash attention: leave flash_attention on."
            )
        if self.max_model_len < 0 or self.max_num_batched_tokens < 16:
            raise EngineRefused("llamacpp: max_model_len must be 0 or more, max_num_batched_tokens 16 or more.")

    @classmethod
    def refuse_early(cls, config: Mapping[str, Any], scheme: str) -> None:
        super().refuse_early(config, scheme)
        layers = config.get("layer_types") if config.get("model_type") == "gemma3_text" else None
        if layers and any((kind == "full_attention") != (n % GEMMA_PATTERN == 0) for n, kind in enumerate(layers, 1)):
            raise EngineRefused(
                f"llamacpp takes Gemma-3 with full attention in every {GEMMA_PATTERN}th block only, and this model has "
                "another pattern: removing other than whole groups of blocks changes it."
            )

    @classmethod
    def program(cls) -> str | None:
        """Our own build, else one on the PATH."""
        own = environments.made(cls.name, PROGRAM)
        return str(own) if own else shutil.which(PROGRAM)

    @classmethod
    def missing(cls) -> str | None:
        if cls.program() is not None:
            return None
        return f"{cls.name} needs {PROGRAM}: run `pw engines install {cls.name}` (5 minutes), or put it on the PATH."

    @classmethod
    def version(cls) -> str:
        program = cls.program()
        return version_of(program, Path(program).stat().st_mtime_ns) if program else ""

    @classmethod
    def install_path(cls) -> str:
        return cls.program() or ""

    def context_length(self, config: Mapping[str, Any]) -> int:
        whole = super().context_length(config)
        return min(whole, self.max_model_len or DEFAULT_LENGTH)

    def search_settings(self, hardware: Hardware, streams: int, longest: int) -> Mapping[str, tuple[Any, ...]]:
        del hardware
        length = -(-longest // 256) * 256
        return {
            **({"max_num_seqs": (streams,)} if streams > DEFAULT_SLOTS else {}),
            "max_model_len": (length,),
            "kv_cache_dtype": ("auto", "q8_0"),
            "flash_attention": ("auto", "off"),
            "enable_prefix_caching": (False, True),
        }

    def cache_bytes(self, config: Mapping[str, Any]) -> float:
        """Of all slots, full or not."""
        kind = "f16" if self.kv_cache_dtype == "auto" else self.kv_cache_dtype
        each = ModelShape.of(config).cache_values_per_token * KV_BYTES[kind]
        return each * self.context_length(config) * self.max_num_seqs

    def note(self, config: Mapping[str, Any]) -> str | None:
        return (
            f"llamacpp keeps {self.cache_bytes(config) / 2**30:.1f} GiB for {self.max_num_seqs} slots of "
            f"{self.context_length(config):,} tokens: max_num_seqs and max_model_len change that."
        )

    def refuse_memory(self, config: Mapping[str, Any], weights: int) -> None:
        """The whole cache is allocated at start-up: refuse here rather than fail there."""
        length, wanted = self.context_length(config), self.cache_bytes(config)
        each, free = wanted / length / self.max_num_seqs, max(0, free_memory() - weights)
        if wanted > free:
            raise EngineRefused(
                f"llamacpp: {self.max_num_seqs} slots of {length} tokens need {wanted / 2**30:.1f} GiB of cache and "
                f"{free / 2**30:.1f} GiB are there: {int(free / each / self.max_num_seqs)} tokens a slot, or "
                f"{int(free / each / length)} slots, would fit (max_model_len, max_num_seqs)."
            )

    def arguments(self, file: Path, config: Mapping[str, Any]) -> list[str]:
        """The server's command line, without its address."""
        length = self.context_length(config)
        checked = 1 + (self.num_speculative_tokens if self.speculative_method else 0)  # tokens of a slot in one step
        batch = str(max(self.max_num_batched_tokens, self.max_num_seqs * checked))
        threads = str(self.num_threads or available_cores())
        made = [
            "--model",
            str(file),
            "--parallel",
            str(self.max_num_seqs),
            "--ctx-size",
            str(length * self.max_num_seqs),
            "--no-kv-unified",
            "--threads",
            threads,
            "--threads-batch",
            threads,
            "--flash-attn",
            self.flash_attention,
            "--batch-size",
            batch,
            "--ubatch-size",
            batch,
            "--cache-ram",
            "0",
            "--no-ui",
            "--no-slots",
            "--offline",
            "--metrics",
            "--threads-http",
            "2",
            "--log-verbosity",
            "1",
        ]
        if self.kv_cache_dtype != "auto":
            made += ["--cache-type-k", self.kv_cache_dtype, "--cache-type-v", self.kv_cache_dtype]
        draft = str(self.num_speculative_tokens)
        if self.speculative_method == "ngram":
            made += [
                "--spec-type",
                "ngram-simple",
                "--spec-ngram-simple-size-n",
                str(self.prompt_lookup_max),
                "--spec-ngram-simple-size-m",
                draft,
            ]
        elif self.speculative_method == "draft_model":
            made += [
                "--spec-type",
                "draft-simple",
                "--spec-draft-model",
                str(Path(self.draft_model) / self.draft_file),
                "--spec-draft-n-max",
                draft,
            ]
        return made
