"""Workload files in, `Workload` out: one file per format, found by reading.py."""

from pennyweight.traces.pennyweight_jsonl import write
from pennyweight.traces.reading import BUILTIN, FORMATS, load

__all__ = ["BUILTIN", "FORMATS", "load", "write"]
