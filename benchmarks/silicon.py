"""Measured end-to-end runs of cluster/silicon.csv, as cases that the planner predicts: closed loops of whole services,
not of those with a pool of its own for prompts.

The source mislabels its parallelism in places, which the rows themselves show (two files give the same measured run):
`tp_size` is sometimes tensor x expert size, `attention_dp_size` 0 or the square of it; concurrency stands in the
source's own column, and is not always batch x dp.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pennyweight.cluster import MachineType
from pennyweight.plan.catalogue import catalogue, find
from pennyweight.plan.placement import Placement
from pennyweight.plan.prediction import Case, Known
from pennyweight.plan.prices import Load
from pennyweight.shape import ModelShape

LARGEST_MACHINE = 8  # devices of a machine that is not a rack
RACK = "gb200"
# Sizes of the models' own config.json, as their authors published them.
DEEPSEEK = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "intermediate_size": 18432,
    "num_attention_heads": 128, "vocab_size": 129280, "n_routed_experts": 256, "num_experts_per_tok": 8,
    "n_shared_experts": 1, "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
}  # fmt: skip
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "DeepSeek": DEEPSEEK,
    "Kimi-K2.5": {
        **DEEPSEEK, "num_attention_heads": 64, "vocab_size": 163840, "n_routed_experts": 384,
        "first_k_dense_replace": 1,
    },
    "gpt-oss-120b": {
        "model_type": "gpt_oss", "num_hidden_layers": 36, "hidden_size": 2880, "intermediate_size": 2880,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088,
        "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 18,
    },
    "Qwen3-32B": {
        "model_type": "qwen3", "num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 25600,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    },
    "Qwen3-235B": {
        "model_type": "qwen3_moe", "num_hidden_layers": 94, "hidden_size": 4096, "intermediate_size": 12288,
        "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1536,
    },
    "Qwen3.5-397B": {
        "model_type": "qwen3_5_moe", "num_hidden_layers": 60, "hidden_size": 4096, "intermediate_size": 12288,
        "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 248320,
        "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 1024,
        "shared_expert_intermediate_size": 1024, "full_attention_interval": 4,
    },
    "Llama-3.1-8B": {
        "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    },
}  # fmt: skip
ENGINES = {"trtllm": "tensorrt_llm"}
PRECISIONS = {"fp8_block": "fp8", "nvfp4": "fp4", "int4_wo": "int4", "": "bf16"}


def runs(file: Path) -> list[tuple[Known, Mapping[str, str]]]:
    """Each measured run once, with its row: the same one stands in several of the source's files."""
    machines = catalogue()
    with file.open(encoding="utf-8") as opened:
        rows = [row for row in csv.DictReader(opened) if row["mode"] == "agg"]
    rows.sort(key=lambda row: row["measured"], reverse=True)
    found = dict[object, tuple[Known, Mapping[str, str]]]()
    for row in rows:
        run = _run(row, machines)
        if run is not None:
            load, placement = run.case.load, run.case.placement
            same = (placement.engine, placement.machine.name, placement.precision, run.case.shape, load)
            found.setdefault((same, round(1000 * run.token_seconds, 1)), (run, row))
    return list(found.values())


def _run(row: Mapping[str, str], machines: Mapping[str, MachineType]) -> Known | None:
    token, first = _number(row["silicon_tpot_ms"]), _number(row["silicon_ttft_ms"])
    if token <= 0 or first <= 0:
        return None
    devices, data, expert = _spread(row)
    batch = _number(row["batch_size"]) * data
    told = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    placement = Placement(
        find(row["system"], machines.values()),
        ENGINES.get(row["backend"], row["backend"]),
        _precision(row),
        tensor=max(1, devices // data),
        data=data,
        expert=expert,
        version=row["backend_version"],
    )
    name = next(name for name in CONFIGS if name in row["model_path"])
    load = Load(_number(row["isl"]), _number(row["osl"]), float(told[1]) if told else batch)
    return Known(Case(ModelShape.of(CONFIGS[name]), placement, load), token / 1000, first / 1000)


def _spread(row: Mapping[str, str]) -> tuple[int, int, int]:
    """Devices, attention ranks, expert ranks."""
    tensor, data = int(_number(row["tp_size"])), max(1, int(_number(row["attention_dp_size"])))
    moe, expert = int(_number(row["moe_tp_size"]) or 1), max(1, int(_number(row["moe_ep_size"])))
    square, named = moe == expert > 1, re.search(r"_tp(\d+)(?:_|$)", row["id"])
    trusted = "epnone" not in row["id"]
    devices = tensor * data
    if square and trusted:
        devices = expert
    if named and trusted:
        devices = int(named[1])
    if devices > LARGEST_MACHINE and row["system"] != RACK:
        devices = tensor
    if devices == 1 and data > 1 and expert > 1:
        devices = min(data, expert)
    if not square and devices < moe * expert <= LARGEST_MACHINE:
        devices = moe * expert
    if row["system"] != RACK:
        devices = min(devices, LARGEST_MACHINE)
    return devices, min(data, devices), min(expert, devices)


def _precision(row: Mapping[str, str]) -> str:
    if "gpt-oss" in row["model_path"]:
        return "fp4"  # as it was published
    named = row["precision"] or ("fp4" if "NVFP4" in row["model_path"] else "fp8" if "FP8" in row["model_path"] else "")
    return named or PRECISIONS.get(row["gemm_quant_mode"], row["gemm_quant_mode"])


def _number(text: str) -> float:
    return float(text) if text else 0.0
