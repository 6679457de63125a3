"""Which reader takes a file, and what is said when none does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pennyweight import traces
from pennyweight.errors import UsageError, WorkloadError


@pytest.mark.parametrize(
    "data", [b"", b" \n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"], ids=["nothing", "blank", "BOM", "BOM, blank"]
)
def test_an_empty_file_is_refused_by_name(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_bytes(data)
    with pytest.raises(WorkloadError, match=r"empty\.jsonl is empty"):
        traces.load(str(file))


@pytest.mark.parametrize("text", ["Dear diary,\n", '{"colour": "red"}\n', "[1, 2]\n", "a,b\n1,2\n", "\0\1\2"])
def test_a_file_in_no_known_format_is_refused_with_the_formats(text: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.txt"
    file.write_text(text)
    with pytest.raises(WorkloadError, match=r"azure.*--trace-format") as refusal:
        traces.load(str(file))
    assert str(file) in str(refusal.value)


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(UsageError, match=r"'csv'.*mooncake"):
        traces.load(str(tmp_path / "x"), "csv")


def test_a_file_that_does_not_exist_is_refused_with_what_is_built_in(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"absent.*chat, extract, tasks"):
        traces.load(str(tmp_path / "absent"))


def test_a_format_that_is_forced_is_used(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"prompt": "x"}\n')
    with pytest.raises(WorkloadError, match="timestamp"):
        traces.load(str(file), "mooncake")
    assert len(traces.load(str(file)).requests) == 1


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(b"\xef\xbb\xbfTIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n")
    assert len(traces.load(str(file)).requests) == 1


def test_a_file_in_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes('{"prompt": "é"}\n'.encode("latin-1"))
    with pytest.raises(WorkloadError, match=r"latin\.jsonl is not UTF-8"):
        traces.load(str(file))


def test_a_directory_of_files_that_are_no_sessions_is_refused_by_name(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (tmp_path / "chats.json").write_text(json.dumps([{"conversations": turns}]))
    with pytest.raises(WorkloadError, match="director"):
        traces.load(str(tmp_path))


def test_a_workload_bears_the_name_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "monday.jsonl"
    file.write_text('{"prompt": "x"}\n')
    assert traces.load(str(file)).name == "monday"


def test_utf_16_is_named_as_such(tmp_path: Path) -> None:
    file = tmp_path / "wide.jsonl"
    file.write_text('{"prompt": "x"}\n', encoding="utf-16")
    with pytest.raises(WorkloadError, match="UTF-16"):
        traces.load(str(file))
