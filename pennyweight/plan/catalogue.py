"""The catalogue of machine types: the shipped files (machines/*.json), the user's own before them, and this machine.

A user's file holds a list of machine types in the same shape, or of `{"name": ..., "usd_per_hour": 2.5}`, which replace
the price of one that is known.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pennyweight import codec
from pennyweight.cluster import Fact, MachineType
from pennyweight.errors import StorageError, UsageError
from pennyweight.hardware import Hardware

SHIPPED = Path(__file__).parent / "machines"
THIS_MACHINE = "this machine"
RATES = {"f32": "f32", "bf16": "bf16", "int8": "int8"}  # as Hardware names them -> as the catalogue does
PRICE_FIELDS = {"name", "usd_per_hour", "source", "date"}


def catalogue(file: Path | None = None) -> dict[str, MachineType]:
    """By name; `file` is the user's. Raises `UsageError` for what it cannot use in there."""
    found = {one.name: one for one in map(_shipped, sorted(SHIPPED.glob("*.json")))}
    for row in _rows(file) if file is not None else ():
        name = row.get("name")
        if not isinstance(name, str) or not name:
            raise UsageError(f"{file}: a machine type has no name: give each one.")
        one = _priced(find(name, found.values()), row, file) if set(row) <= PRICE_FIELDS else _own(row, file)
        found[one.name] = one
    return found


def find(name: str, machines: Iterable[MachineType]) -> MachineType:
    """By its name or one of its aliases, whatever their case and hyphens. Raises `UsageError`."""
    machines = list(machines)
    wanted = plain_name(name)
    for one in machines:
        if wanted in {plain_name(each) for each in (one.name, *one.aliases)}:
            return one
    parts = wanted[:4]
    near = [one.name for one in machines if parts in plain_name(" ".join((one.name, *one.aliases)))]
    raise UsageError(
        f"No machine type is named {name}: use one of {', '.join(near or [one.name for one in machines])}, or describe "
        "it in a file of your own (--catalogue)."
    )


def plain_name(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def this_machine(hardware: Hardware) -> MachineType:
    """As `pw doctor` has measured it; it costs nothing more."""
    date = time.strftime("%Y-%m-%d")

    def fact(value: float) -> Fact:
        return Fact(value, "measured here (pw doctor)", date, "measured")

    return MachineType(
        THIS_MACHINE,
        hardware.cpu,
        "cpu",
        1,
        memory_bytes=fact(hardware.memory_bytes),
        memory_bandwidth=fact(hardware.memory_bandwidth),
        arithmetic_rate={RATES[kind]: fact(rate) for kind, rate in hardware.arithmetic_rate.items() if kind in RATES},
        usd_per_hour=Fact(0.0, "it is here", date, "assumed"),
        engines=("openvino", "onnxruntime", "llamacpp", "transformers", "vllm"),
    )


def _shipped(file: Path) -> MachineType:
    return codec.value_of(MachineType, json.loads(file.read_text(encoding="utf-8")), file.name)


def _rows(file: Path) -> list[Mapping[str, Any]]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"The catalogue {file} cannot be read ({error}): give a JSON file.") from None
    rows = told if isinstance(told, list) else [told]
    if not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"The catalogue {file} must be a list of machine types: docs/plan.md shows one.")
    return rows


def _own(row: Mapping[str, Any], file: Path | None) -> MachineType:
    odd = sorted(set(row) - {field.name for field in fields(MachineType)})
    if odd:
        raise UsageError(f"{file}, {row['name']}: {odd[0]} is no field of a machine type.")
    try:
        made = codec.value_of(MachineType, dict(row), str(file))
    except (StorageError, TypeError, ValueError) as error:
        raise UsageError(f"{file}, {row['name']}: {error}") from None
    if made.devices < 1 or made.memory_bytes.value <= 0 or made.memory_bandwidth.value <= 0:
        raise UsageError(f"{file}, {made.name}: devices, memory_bytes and memory_bandwidth must be above 0.")
    if made.usd_per_hour is not None:
        _check_price(made.usd_per_hour.value, made.name, file)
    return made


def _priced(known: MachineType, row: Mapping[str, Any], file: Path | None) -> MachineType:
    price = row.get("usd_per_hour")
    if not isinstance(price, (int, float)) or isinstance(price, bool):
        raise UsageError(f"{file}, {known.name}: usd_per_hour is {price!r}: give a number.")
    _check_price(price, known.name, file)
    source, date = str(row.get("source") or file), str(row.get("date") or time.strftime("%Y-%m-%d"))
    return replace(known, usd_per_hour=Fact(float(price), source, date, "list price"))


def _check_price(price: float, name: str, file: Path | None) -> None:
    if not price > 0:
        raise UsageError(
            f"{file}, {name}: a price of {price:g} an hour would make everything run there: give what it really costs."
        )
