"""ShareGPT JSON: a list of {"id": …, "conversations": [{"from": "human" | "gpt" | "system", "value": …}, …]}.

Every answer in a conversation becomes one request: the turns before it as its prompt, its tokens as its output limit.
Without a tokenizer these are estimated: 1.3 for a word, one for a letter of a script that puts no spaces between words.
A conversation that asks nothing, or has no answer to what it asks, is a fault: it would be missing without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pennyweight.errors import WorkloadError
from pennyweight.workload import Request, Workload

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}
LONGEST_ANSWER = 1024
MEND = ": leave such rows out by `pw workload FILE --skip-invalid -o NEW.jsonl`."


def recognises(head: str) -> bool:
    return head.lstrip().startswith("[") and '"conversations"' in head


NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def read(
    path: Path, count_tokens: Callable[[str], int] | None = None, skip_invalid: Callable[[str], None] | None = None
) -> Workload:
    try:
        conversations = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise WorkloadError(f"{path}, line {error.lineno}: no JSON ({error.msg}).") from None
    if not isinstance(conversations, list):
        raise WorkloadError(f"{path} is no list of conversations: is it ShareGPT?")
    requests: list[Request] = []
    for index, conversation in enumerate(conversations):
        try:
            requests.extend(_requests(path, index, conversation, count_tokens or estimated_tokens))
        except WorkloadError as error:
            if skip_invalid is None:
                raise
            skip_invalid(f"Left out: {error}")
    return Workload(path.stem, tuple(requests))


def estimated_tokens(text: str) -> int:
    letters = len(NO_SPACES.findall(text))
    return letters + round(1.3 * len(NO_SPACES.sub(" ", text).split()))


def _requests(path: Path, index: int, conversation: Any, count_tokens: Callable[[str], int]) -> list[Request]:
    turns = conversation.get("conversations") if isinstance(conversation, dict) else None
    if not isinstance(turns, list):
        raise WorkloadError(f"{path}, conversation {index + 1}: the list conversations is missing.")
    session = str(conversation.get("id", f"conversation-{index}"))
    found: list[Request] = []
    messages: list[dict[str, str]] = []
    for turn in turns:
        role = ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if role is None or not isinstance(turn.get("value"), str):
            raise WorkloadError(f"{path}, conversation {index + 1}: a turn needs a known `from` and a text `value`.")
        if role == "assistant" and messages and messages[-1]["role"] == "user":
            length = min(LONGEST_ANSWER, max(1, count_tokens(turn["value"])))
            found.append(Request(f"{session}#{index}.{len(found)}", session, length, messages=tuple(messages)))
        if role == "user" and not turn["value"].strip():
            raise WorkloadError(f"{path}, conversation {index + 1}: a question is empty{MEND}")
        messages.append({"role": role, "content": turn["value"]})
    if not found:
        raise WorkloadError(f"{path}, conversation {index + 1}: no question with an answer{MEND}")
    return found
