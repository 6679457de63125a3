"""The Mooncake trace."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pennyweight import traces
from pennyweight.errors import WorkloadError

GOOD = {"timestamp": 1500, "input_length": 700, "output_length": 20, "hash_ids": [0, 14]}


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    file = path / "mooncake.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def test_lines_become_shapes_with_hashed_blocks(tmp_path: Path) -> None:
    (request,) = traces.load(str(write(tmp_path, GOOD))).requests
    assert (request.arrival, request.max_tokens) == (1.5, 20)
    assert request.shape is not None
    assert (request.shape.tokens, request.shape.block_hashes, request.shape.block_size) == (700, ("0", "14"), 512)


def test_blank_lines_are_passed_over_and_still_counted(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, "", GOOD, "", "{")
    with pytest.raises(WorkloadError, match="line 5"):
        traces.load(str(file))


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ("{", "JSON"),
        ("[1]", "object"),
        ({**GOOD, "timestamp": "soon"}, "timestamp"),
        ({**GOOD, "timestamp": None}, "timestamp"),
        ({**GOOD, "timestamp": -1}, "time"),
        ({**GOOD, "timestamp": 1499}, "time"),
        ({**GOOD, "timestamp": float("nan")}, "time"),
        ({**GOOD, "timestamp": float("inf")}, "time"),
        ({**GOOD, "input_length": 0}, "input_length"),
        ({**GOOD, "input_length": 10.5}, "input_length"),
        ({**GOOD, "input_length": float("inf")}, "input_length"),
        ({**GOOD, "output_length": -5}, "output_length"),
        ({k: v for k, v in GOOD.items() if k != "output_length"}, "output_length"),
        ({**GOOD, "hash_ids": 5}, "hash_ids"),
        ({**GOOD, "hash_ids": None}, "hash_ids"),
    ],
)
def test_a_malformed_line_is_reported_with_file_and_line(bad: dict[str, Any] | str, word: str, tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, bad)
    with pytest.raises(WorkloadError, match=word) as refusal:
        traces.load(str(file))
    assert f"{file}, line 2" in str(refusal.value)


@pytest.mark.skipif("PENNYWEIGHT_DATA" not in os.environ, reason="needs the real trace: set PENNYWEIGHT_DATA")
def test_the_real_trace_is_read_whole() -> None:
    requests = traces.load(os.environ["PENNYWEIGHT_DATA"] + "/traces/mooncake_conversation.jsonl").requests
    assert len(requests) == 12031
    assert requests[0].shape is not None
    assert (requests[0].shape.tokens, len(requests[0].shape.block_hashes)) == (6758, 14)
    assert (requests[-1].arrival or 0) < 3700
