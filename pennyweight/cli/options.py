"""Options that several verbs share, and parsing of option text: pairs, shares, sizes, settings."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pennyweight.errors import UsageError

if TYPE_CHECKING:
    from pennyweight.workload import Arrivals

SIZES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
SLO_QUANTITIES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e"}
CONCURRENCY = 32

WorkloadName = Annotated[
    str, typer.Option("--workload", "-w", help="chat, extract, tasks, support, or a workload or trace file.")
]
Adapter = Annotated[Path | None, typer.Option(help="A LoRA adapter (PEFT) to merge into the model first.")]
NumPrompts = Annotated[int | None, typer.Option(help="Use only this many requests of the workload.")]
Seed = Annotated[int, typer.Option(help="Random seed of the split, the order and the arrivals.")]
MaxConcurrency = Annotated[int, typer.Option(help="Concurrent requests (closed loop).")]
SpeculativeConfig = Annotated[
    str | None, typer.Option(help='Speculative decoding, in vLLM syntax: {"method": "ngram"} or {"model": "DIR"}.')
]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON, for programs.")]
# limits of a proof, beside --max-added-nats and --max-degradation
MaxTailShare = Annotated[float, typer.Option(help="Share of sessions that may lose over 5 times --max-added-nats.")]
MaxDivergence = Annotated[
    float | None, typer.Option(help="Divergence in nats per token, both ways. [default: twice --max-added-nats]")
]
MinAgreement = Annotated[
    float | None, typer.Option(help="Share of tokens that must stay the first choice, such as 0.95.")
]
MaxDepartures = Annotated[float, typer.Option(help="Share of sessions whose answer leaves what scoring is sure of.")]
MaxEndingShift = Annotated[float, typer.Option(help="Change in the share of answers that end by themselves.")]
MaxLengthShift = Annotated[float, typer.Option(help="Change in the length of all answers, as a share.")]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Name and leave out rows that cannot be read.")]
TraceFormat = Annotated[str | None, typer.Option(help="Format of the trace, if not recognised.")]


def pairs(text: str | None, option: str) -> dict[str, float]:
    """`ttft:500,tpot:60` -> {"ttft": 500.0, "tpot": 60.0}."""
    found: dict[str, float] = {}
    for part in filter(None, re.split(r"[,\s]+", text or "")):
        name, _, value = part.partition(":")
        try:
            found[name] = float(value)
            if not math.isfinite(found[name]):
                raise ValueError(value)
        except ValueError:
            raise UsageError(f"{option} {part!r} is not name:milliseconds: write it as ttft:500.") from None
    return found


def slo(text: str | None, percentile: int) -> dict[str, float]:
    """SLO names to the quantities that they limit."""
    if percentile not in (50, 90, 95, 99):
        raise UsageError(f"--percentile {percentile} is not measured: use 50, 90, 95 or 99.")
    limits = {}
    for name, bound in pairs(text, "--slo").items():
        if name not in SLO_QUANTITIES:
            raise UsageError(f"--slo does not know {name!r}: use {', '.join(SLO_QUANTITIES)}.")
        limits[f"{SLO_QUANTITIES[name]}_p{percentile}_ms"] = bound
    return limits


def share(text: str | None, option: str) -> float | None:
    """`1%` or `0.01` -> 0.01."""
    if text is None:
        return None
    try:
        found = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a share: write 1% or 0.01.") from None
    if found >= 1 and not text.endswith("%"):
        raise UsageError(f"{option} {text} is no share below 1: did you mean {text}%?")
    return found


def size(text: str | None, option: str) -> float | None:
    """`2GiB` -> bytes."""
    if text is None:
        return None
    matched = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([A-Za-z]*)", text.strip())
    if matched is None or matched[2].lower() not in SIZES:
        raise UsageError(f"{option} {text!r} is not a size: write it as 2GiB or 800MB.")
    return float(matched[1]) * SIZES[matched[2].lower()]


def settings(words: list[str] | None) -> dict[str, Any]:
    """`name=value` to engine settings; true, false and numbers are taken as such."""
    found: dict[str, Any] = {}
    for word in words or []:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word!r} is not name=value.")
        value: Any = {"true": True, "false": False}.get(text.lower(), text)
        for number in (int, float):
            if isinstance(value, str):
                try:
                    value = number(value)
                except ValueError:
                    continue
        found[name.replace("-", "_")] = value
    return found


def speculation(text: str | None) -> dict[str, Any]:
    """vLLM's `{"method": "ngram", "num_speculative_tokens": 4}` or `{"model": "DIR", …}` to engine settings."""
    if text is None:
        return {}
    names = {"method": "speculative_method", "model": "draft_model"}
    kept = ("num_speculative_tokens", "prompt_lookup_max", "draft_tolerance")
    try:
        asked: dict[str, Any] = dict(json.loads(text).items())
        unknown = set(asked) - {*names, *kept}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"--speculative-config is not a JSON object ({error}): write it as vLLM does.") from None
    if unknown:
        known = ", ".join((*names, *kept))
        raise UsageError(f"--speculative-config does not know {', '.join(sorted(unknown))}: use {known}.")
    found = {names.get(name, name): value for name, value in asked.items()}
    if "draft_model" in found:
        found.setdefault("speculative_method", "draft_model")
    return found


def arrivals(
    max_concurrency: int | None, request_rate: float | None, burstiness: float, *, recorded: bool, time_scale: float
) -> Arrivals:
    """One of: recorded times, a rate, a closed loop; in the first two a concurrency is a bound."""
    from pennyweight.workload import Arrivals

    if recorded and request_rate is not None:
        raise UsageError("--as-recorded and --request-rate contradict each other: use one of them.")
    if recorded:
        return Arrivals("recorded", max_concurrency, time_scale=time_scale)
    if request_rate is not None:
        kind = "poisson" if burstiness == 1.0 else "gamma"
        return Arrivals(kind, max_concurrency, request_rate, burstiness)
    return Arrivals("closed", CONCURRENCY if max_concurrency is None else max_concurrency)


def loads(
    max_concurrency: str | None, request_rate: str | None, burstiness: float, *, recorded: bool, time_scale: float
) -> list[Arrivals]:
    """Every combination of the concurrencies and the rates that are named."""
    rates: list[float | None] = [*numbers(request_rate, "--request-rate")] or [None]
    bounds: list[float | None] = [*numbers(max_concurrency, "--max-concurrency")] or [None]
    found = []
    for rate in rates:
        for bound in bounds:
            if bound is not None and not (math.isfinite(bound) and bound == int(bound)):
                raise UsageError(f"--max-concurrency {bound:g} is no whole number.")
            concurrency = None if bound is None else int(bound)
            found.append(arrivals(concurrency, rate, burstiness, recorded=recorded, time_scale=time_scale))
    return found


def refuse_unwritable(place: Path | None) -> None:
    """Raise before anything is measured if this file cannot be written."""
    if place is None:
        return
    if place.is_dir():
        raise UsageError(f"{place} is a directory: name a file in it.")
    if not place.absolute().parent.is_dir():
        raise UsageError(f"{place.absolute().parent} does not exist: make it first, or write elsewhere.")
    if not os.access(place if place.exists() else place.absolute().parent, os.W_OK):
        raise UsageError(f"{place} cannot be written: name another file.")


def numbers(text: str | None, option: str) -> list[float]:
    """`1,2,4` -> [1.0, 2.0, 4.0]."""
    try:
        return [float(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise UsageError(f"{option} {text!r} is no number and no list of them: write 8, or 1,2,4,8.") from None


ServedModelName = Annotated[
    list[str] | None, typer.Option(help="Model name for clients; repeat for aliases. Default: the model's own name.")
]


def age(text: str, option: str) -> float:
    """`30d` -> seconds."""
    matched = re.fullmatch(r"(\d+)([dh])", text.strip())
    if matched is None or len(matched[1]) > 6:
        raise UsageError(f"{option} {text[:40]!r} is not an age: write it as 30d or 12h.")
    return int(matched[1]) * {"d": 86400.0, "h": 3600.0}[matched[2]]
