"""Machine types, as data files describe them (plan/machines/*.json): what one device holds and computes, how devices
are linked, and what an hour costs. Every number says where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Basis = Literal["datasheet", "measured", "list price", "assumed"]


@dataclass(frozen=True)
class Fact:
    """A number in the unit that its field names, its `source`, and the `date` (YYYY-MM-DD, or YYYY-MM) of that."""

    value: float
    source: str
    date: str
    basis: Basis = "datasheet"


@dataclass(frozen=True)
class MachineType:
    """A machine with `devices` equal accelerators (of a CPU server: sockets). Per device: `memory_bytes`,
    `memory_bandwidth` (bytes/s), `arithmetic_rate` (dense operations/s by number type, a multiply and an add count as
    two), `link_bandwidth` (bytes/s that one device can send to its neighbours while it receives as much; missing where
    there is one device). `network_bandwidth` (bytes/s) is one device's share of what leaves the machine.
    `usd_per_hour` is of the whole machine."""

    name: str
    vendor: str
    kind: Literal["gpu", "cpu", "tpu", "accelerator", "fpga"]
    devices: int
    memory_bytes: Fact
    memory_bandwidth: Fact
    arithmetic_rate: Mapping[str, Fact] = field(hash=False)
    link_bandwidth: Fact | None = None
    network_bandwidth: Fact | None = None
    usd_per_hour: Fact | None = None
    engines: tuple[str, ...] = ()
    note: str = ""
    aliases: tuple[str, ...] = field(default=())
