"""Which requests may get an answer to a similar question, and with which others: everything of a request but its last
user message must be equal, and its answer must depend on nothing else."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pennyweight.serve.gateway.ask import Ask
from pennyweight.serve.gateway.exact_cache import canonical
from pennyweight.similarity.volatile import Volatile

PATH = "/v1/chat/completions"
REFUSING = ("no", "no-similar")  # values of the header x-pennyweight-cache
LONGEST = 400  # characters of a question: more is a document, and no embedding of one sentence


@dataclass(frozen=True)
class Asked:
    """The question, and the partition of all whose rest is equal."""

    question: str
    partition: str


def asked_of(ask: Ask, volatile: Volatile, embedding: str) -> Asked | None:
    """None for what is never served from a similar question: sampled or seeded answers, several at once, tools under
    way, what is volatile or personal, and what is no text."""
    body = ask.body
    messages = body.get("messages")
    if ask.path != PATH or not isinstance(messages, list) or not messages or body.get("temperature") != 0:
        return None
    if body.get("seed") is not None or ask.sequences != 1 or body.get("logprobs") or _tools_under_way(messages):
        return None
    last = messages[-1]
    question = last.get("content") if isinstance(last, Mapping) and last.get("role") == "user" else None
    if not isinstance(question, str) or not question.strip() or len(question) > LONGEST or volatile(question):
        return None
    if not is_encodable(question) or has_invisible(question) or body.get("return_token_ids"):
        return None
    rest = {**canonical(body), "messages": [*messages[:-1], {**last, "content": None}]}
    told = json.dumps([ask.tenant.name, ask.identity, ask.path, ask.pinned, embedding, rest], sort_keys=True)
    told += json.dumps(body.get("response_format"))  # a schema's properties are answered in their own order
    return Asked(question, hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest())


def is_encodable(text: str) -> bool:
    """Half of a surrogate pair is no character, and cannot be kept."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_invisible(text: str) -> bool:
    """What nobody sees and a model reads: tags, joiners, marks of direction, variation selectors."""
    return any(
        unicodedata.category(one) in ("Cf", "Cn", "Co") or "\ufe00" <= one <= "\ufe0f" or one >= "\U000e0100"
        for one in text
    )


def _tools_under_way(messages: list[Any]) -> bool:
    return any(isinstance(one, Mapping) and (one.get("role") == "tool" or one.get("tool_calls")) for one in messages)
