"""ShareGPT JSON: a list of {"id": …, "conversations": [{"from": "human" | "gpt" | "system", "value": …}, …]}.

Every answer in a conversation becomes one request: the turns before it as its prompt, its length (in words, times 1.3,
since the tokenizer is not known yet) as its output limit.
"""

from __future__ import annotations

import json
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


def recognises(head: str) -> bool:
    return head.lstrip().startswith("[") and '"conversations"' in head


def read(path: Path) -> Workload:
    try:
        conversations = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise WorkloadError(f"{path}, line {error.lineno}: no JSON ({error.msg}).") from None
    if not isinstance(conversations, list):
        raise WorkloadError(f"{path} is no list of conversations: is it ShareGPT?")
    requests: list[Request] = []
    for index, conversation in enumerate(conversations):
        requests.extend(_requests(path, index, conversation))
    return Workload(path.stem, tuple(requests))


def _requests(path: Path, index: int, conversation: Any) -> list[Request]:
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
            length = min(LONGEST_ANSWER, max(1, round(1.3 * len(turn["value"].split()))))
            found.append(Request(f"{session}#{index}.{len(found)}", session, length, messages=tuple(messages)))
        messages.append({"role": role, "content": turn["value"]})
    return found
