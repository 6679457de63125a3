"""A request's prompt as tokens, without standing in the way of others: what cannot fit is refused by its size, and long
texts are cut in threads (`tokenizers` lets Python run meanwhile)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pennyweight.errors import PennyweightError
from pennyweight.openai_api.bodies import ChatBody, CompletionBody, TokenizeBody
from pennyweight.tokenizer import Tokenizer

AT_ONCE = 16 * 1024  # bytes of text that take about a millisecond
THREADS = 2
SHRINKING = 2  # times: normalizers may make a text shorter before it is cut


class Refused(PennyweightError):
    """A request that is answered with 400."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class Prompts:
    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        self._tokenizer, self._context_length = tokenizer, context_length
        self._most_bytes = SHRINKING * context_length * tokenizer.longest_token
        self._threads = ThreadPoolExecutor(THREADS, "tokenizer")

    async def tokens_of(self, body: CompletionBody | ChatBody) -> list[int]:
        """Raises `Refused` for a prompt that is empty, holds unknown ids or cannot fit into the context."""
        field = "messages" if isinstance(body, ChatBody) else "prompt"
        tokens = await self._in_time(lambda: self._cut(body), text_bytes(body), field)
        if not tokens:
            raise Refused("The prompt has no tokens: send some text.", "prompt")
        return tokens

    async def tokenized(self, body: TokenizeBody) -> list[int]:
        def cut() -> list[int]:
            return self._tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens)

        return await self._in_time(cut, len(body.prompt.encode()), "prompt")

    async def _in_time(self, cut: Callable[[], list[int]], size: int, field: str) -> list[int]:
        if size > self._most_bytes:
            raise Refused(
                f"This model's context is {self._context_length} tokens of at most {self._tokenizer.longest_token} "
                f"bytes, and the text has {size:,} bytes: shorten it.",
                field,
                "context_length_exceeded",
            )
        if size <= AT_ONCE:
            return cut()
        return await asyncio.get_running_loop().run_in_executor(self._threads, cut)

    def _cut(self, body: CompletionBody | ChatBody) -> list[int]:
        if isinstance(body, ChatBody):
            messages = [message.plain() for message in body.messages]
            return self._tokenizer.chat(messages, parse_special_tokens=body.parse_special_tokens)
        if isinstance(body.prompt, str):
            return self._tokenizer.encode(body.prompt)
        if max(body.prompt) >= self._tokenizer.vocabulary_size or min(body.prompt) < 0:
            raise Refused(f"A token id is outside the vocabulary of {self._tokenizer.vocabulary_size}.", "prompt")
        return body.prompt


def text_bytes(body: CompletionBody | ChatBody) -> int:
    if isinstance(body, ChatBody):
        return sum(len(message.plain()["content"].encode()) for message in body.messages)
    return len(body.prompt.encode()) if isinstance(body.prompt, str) else 0
