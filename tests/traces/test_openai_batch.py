"""OpenAI batch files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pennyweight import traces
from pennyweight.errors import WorkloadError

MESSAGES = [{"role": "user", "content": "Hi"}]


def entry(custom_id: str = "a", url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


GOOD = entry(messages=MESSAGES, max_tokens=9)


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    file = path / "batch.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def test_chats_and_completions_are_read(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, entry("b", "/v1/completions", prompt="Once", max_tokens=5))
    chat, plain = traces.load(str(file)).requests
    assert (chat.id, chat.messages, chat.prompt, chat.max_tokens) == ("a", tuple(MESSAGES), "", 9)
    assert (plain.id, plain.messages, plain.prompt, plain.max_tokens) == ("b", (), "Once", 5)


def test_the_newer_name_of_the_limit_goes_first_and_none_is_modest(tmp_path: Path) -> None:
    both = entry("a", messages=MESSAGES, max_tokens=9, max_completion_tokens=7)
    file = write(tmp_path, both, entry("b", messages=MESSAGES))
    assert [r.max_tokens for r in traces.load(str(file)).requests] == [7, 128]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ("{", "JSON"),
        ({"custom_id": "b", "url": "/v1/chat/completions"}, "body"),
        (entry("b", messages=[]), "messages"),
        (entry("b", messages=MESSAGES, max_tokens="all"), "max_tokens"),
        (entry("b", messages=MESSAGES, max_tokens=0), "max_tokens"),
        (entry("b", messages=[{"role": "wizard", "content": "x"}]), "role"),
        (entry("b", messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "content"),
        (entry("b", "/v1/embeddings", input="x"), "embeddings"),
        (entry("b", "/v1/completions", prompt=["x", "y"]), "prompt"),
        (entry("b", "/v1/completions", prompt=""), "prompt"),
        (GOOD, "'a'"),
    ],
    ids=[
        "no JSON",
        "no body",
        "no messages",
        "limit in words",
        "limit 0",
        "unknown role",
        "picture",
        "embeddings",
        "prompt list",
        "prompt empty",
        "id used twice",
    ],
)
def test_a_malformed_line_is_reported_with_file_and_line(bad: dict[str, Any] | str, word: str, tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, bad)
    with pytest.raises(WorkloadError, match=word) as refusal:
        traces.load(str(file))
    assert f"{file}, line 2" in str(refusal.value)
