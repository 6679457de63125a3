"""Load a checkpoint with transformers, for both runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pennyweight.engines.batching.sampling import Logits
from pennyweight.engines.transformers.settings import Transformers
from pennyweight.hardware import available_cores, detect


def loaded(directory: Path, settings: Transformers) -> tuple[Any, torch.device]:
    """The model on its device, ready to run."""
    torch.set_num_threads(settings.num_threads or available_cores())
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(found if settings.device == "auto" else settings.device)
    dtype: str | torch.dtype = "auto" if settings.dtype == "auto" else getattr(torch, settings.dtype)
    if dtype == "auto" and device.type == "cpu" and not computes_in_half_precision():
        dtype = torch.float32  # holds each 16-bit value exactly, and is many times faster than emulating it
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, trust_remote_code=False)
    return model.eval().to(device), device


def computes_in_half_precision() -> bool:
    """Has this CPU instructions for 16-bit floats? Without them PyTorch emulates these, several times slower than
    32-bit ones (docs/decisions/0018-reference-precision.md)."""
    return any(flag in detect().flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def kernels(model: Any) -> list[str]:
    """What multiplies, as torch names it."""
    dtype = str(model.dtype).removeprefix("torch.")
    if model.device.type == "cuda":
        return [f"{dtype} on {torch.cuda.get_device_name(model.device)}"]
    return [f"{dtype} by oneDNN and MKL for {torch.backends.cpu.get_cpu_capability()}"]


def as_logits(logits: torch.Tensor) -> Logits:
    """In float32, in the memory of the CPU."""
    result: Logits = logits.float().cpu().numpy()
    return result
