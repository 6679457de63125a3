"""Requests as they come in: read within bounds, understood as far as a gateway must, and refused in OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from pennyweight.serve.gateway.refusals import Refused

BODY_SECONDS = 30.0
CHARACTERS_PER_TOKEN = 4
BEYOND_ASCII = 1.5  # characters that each byte more than one counts as
MAX_SEQUENCES = 1024
MAX_COUNTED = 2**20  # a cap on numbers in a request: larger ones are for the engine to refuse
DEEP = 200  # brackets, with which a body may be too deep
DEFAULT_ANSWER = 256  # tokens, where a request names no limit
BLOCK, MAX_BLOCKS = 256, 64  # characters per block, and the number of blocks that identify a prompt's prefix


async def read(request: Request, most: int) -> bytes:
    """The whole body, if it comes in time and is not too large."""
    too_large = Refused(413, f"The body is larger than {most:,} bytes: send less.", code="request_too_large")
    try:
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
    except ValueError:
        raise Refused(400, "Content-Length is no number.") from None
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"The body did not come within {BODY_SECONDS:.0f} s.") from None
    except ClientDisconnect:
        raise Refused(499, "The client has left.") from None
    return b"".join(parts)


def parsed(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
        if raw.count(b"[") + raw.count(b"{") > DEEP:
            json.dumps(value)  # what is too deep to be written again is refused here
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON ({str(error)[:100]}).") from None
    if not isinstance(value, dict):
        raise Refused(400, "The body is JSON but no object.")
    return value


def whole_number(body: Mapping[str, Any], *names: str, default: int) -> int:
    """The first of these fields that is there; what is no number is left to the engine to refuse."""
    for name in names:
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return min(value, MAX_COUNTED)
    return default


def prompt_text(body: Mapping[str, Any]) -> str:
    """A text about as long as the prompt, with equal prefixes for prompts with equal prefixes."""
    for name in ("messages", "prompt", "input"):
        value = body.get(name)
        if value is not None:
            return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return ""


def cost_of(body: Mapping[str, Any], text: str) -> int:
    """Estimated tokens: the prompt's plus, for each of `n` answers, the answer's limit."""
    answer = whole_number(body, "max_completion_tokens", "max_tokens", "max_output_tokens", default=DEFAULT_ANSWER)
    return tokens_of(text) + answer * sequences_of(body)


def sequences_of(body: Mapping[str, Any]) -> int:
    """Answers that are generated side by side: `n` for each prompt."""
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    prompts = len(prompt) if several and isinstance(prompt, list) else 1
    return min(MAX_SEQUENCES, prompts * max(1, whole_number(body, "n", default=1)))


def tokens_of(text: str) -> int:
    """Estimated tokens: English has about four characters a token, Chinese one."""
    more = len(text.encode(errors="surrogatepass")) - len(text)
    return int(len(text) + BEYOND_ASCII * more) // CHARACTERS_PER_TOKEN


def blocks_of(text: str) -> tuple[int, ...]:
    """A hash for each of the first blocks, which stands for all before it too."""
    made: list[int] = []
    for start in range(0, min(len(text) - BLOCK + 1, BLOCK * MAX_BLOCKS), BLOCK):
        made.append(hash((made[-1] if made else 0, text[start : start + BLOCK])))
    return tuple(made)
