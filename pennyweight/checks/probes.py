"""Prompts that show whether two readings of a tokenizer and its chat template are the same."""

from __future__ import annotations

from collections.abc import Mapping

Messages = list[Mapping[str, str]]
TEXT = "  Two  blanks,\tan umlaut: \u00fc, a face: \U0001f642, code: x[0]+=1\n\nand 2026 <lines>."


def _said(role: str, content: str) -> Mapping[str, str]:
    return {"role": role, "content": content}


PROBES: tuple[str | Messages, ...] = (
    TEXT,
    "Hello",
    [_said("user", "What is 2 + 2?")],
    [_said("user", TEXT)],
    [_said("system", "Be brief."), _said("user", "Hi")],
    [_said("user", "Hi"), _said("assistant", "Hello!"), _said("user", " And now? ")],
)
