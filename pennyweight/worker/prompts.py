"""A request's prompt as tokens, without standing in the way of others: what cannot fit is refused by its size, and long
texts are cut in threads (`tokenizers` lets Python run meanwhile)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel

from pennyweight.errors import PennyweightError
from pennyweight.openai_api.bodies import ChatBody, CompletionBody, EmbeddingsBody, Message, TokenizeBody
from pennyweight.openai_api.tools import Tool
from pennyweight.tokenizer import Tokenizer

AT_ONCE = 16 * 1024  # bytes of text that take about a millisecond
THREADS = 2
SCALAR_BYTES = 4  # of a number or a null
SHRINKING = 2  # times: normalizers may make a text shorter before it is cut
RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "chat_template")
TOOLS_AS_TEXT = (
    "Functions that you may call, one a line:\n{tools}\n"
    'A call is written <tool_call>{{"name": …, "arguments": {{…}}}}</tool_call>; its result follows.'
)


class Refused(PennyweightError):
    """A request that is answered with 400."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Conversation:
    """What a chat's prompt is made from, as the template takes it."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    parse_special_tokens: bool = False
    variables: Mapping[str, Any] | None = None


class Prompts:
    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        self._tokenizer, self._context_length = tokenizer, context_length
        self._most_bytes = SHRINKING * context_length * tokenizer.longest_token
        self._threads = ThreadPoolExecutor(THREADS, "tokenizer")

    async def tokens_of(self, body: CompletionBody | ChatBody) -> list[list[int]]:
        """One list of ids for each prompt. Raises `Refused` for one that is empty, holds unknown ids or cannot fit
        into the context."""
        field = "messages" if isinstance(body, ChatBody) else "prompt"
        found = await self._in_time(lambda: self._cut(body), text_bytes(body), field)
        for tokens in found:
            if not tokens:
                raise Refused("The prompt has no tokens: send some text.", "prompt")
        most = body.truncate_prompt_tokens
        return found if most < 1 else [tokens[-most:] for tokens in found]

    async def texts(self, body: EmbeddingsBody) -> list[list[int]]:
        """The texts of a request for embeddings. Raises `Refused` for one that is longer than the context."""
        size = sum(len(text.encode()) for text in body.texts if isinstance(text, str))
        longest = max((len(text.encode()) for text in body.texts if isinstance(text, str)), default=0)
        if longest > self._most_bytes:
            self._refuse_bytes(longest, "input")

        def cut() -> list[list[int]]:
            return [self._ids(text, special=True) for text in body.texts]

        found = cut() if size <= AT_ONCE else await self._in_a_thread(cut)
        for tokens in found:
            if not 0 < len(tokens) <= self._context_length:
                message = f"A text of {len(tokens)} tokens does not fit into {self._context_length}: shorten it."
                raise Refused(message, "input", "context_length_exceeded")
        return found

    async def tokenized(self, body: TokenizeBody) -> list[int]:
        def cut() -> list[list[int]]:
            if body.messages is not None:
                return [self._chat(self._conversation(body.messages, body.tools, body))]
            special = body.add_special_tokens is not False
            return [self._tokenizer.encode(body.prompt or "", add_special_tokens=special)]

        size = sum(map(_bytes_in, (body.prompt or "", body.messages or (), body.tools, body.chat_template_kwargs)))
        return (await self._in_time(cut, size, "prompt"))[0]

    async def detokenized(self, tokens: Sequence[int]) -> str:
        self._check_ids(tokens)
        return self._tokenizer.spelled(tokens)  # all of them: what was cut comes back whole

    async def _in_time(self, cut: Callable[[], list[list[int]]], size: int, field: str) -> list[list[int]]:
        if size > self._most_bytes:
            self._refuse_bytes(size, field)
        return cut() if size <= AT_ONCE else await self._in_a_thread(cut)

    async def _in_a_thread(self, cut: Callable[[], list[list[int]]]) -> list[list[int]]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, cut)

    def _refuse_bytes(self, size: int, field: str) -> NoReturn:
        raise Refused(
            f"This model's context is {self._context_length} tokens of at most {self._tokenizer.longest_token} "
            f"bytes, and the text has {size:,} bytes: shorten it.",
            field,
            "context_length_exceeded",
        )

    def _cut(self, body: CompletionBody | ChatBody) -> list[list[int]]:
        if isinstance(body, ChatBody):
            tools = [] if body.tool_choice == "none" else body.tools
            return [self._chat(self._conversation(body.messages, tools, body))]
        return [self._ids(prompt, special=body.add_special_tokens) for prompt in body.prompts]

    def _ids(self, prompt: str | list[int], *, special: bool) -> list[int]:
        if isinstance(prompt, str):
            return self._tokenizer.encode(prompt, add_special_tokens=special)
        self._check_ids(prompt)
        return prompt

    def _check_ids(self, tokens: Sequence[int]) -> None:
        if tokens and (max(tokens) >= self._tokenizer.vocabulary_size or min(tokens) < 0):
            raise Refused(f"A token id is outside the vocabulary of {self._tokenizer.vocabulary_size}.", "prompt")

    def _chat(self, asked: Conversation) -> list[int]:
        return self._tokenizer.chat(
            asked.messages,
            tools=asked.tools,
            documents=asked.documents,
            parse_special_tokens=asked.parse_special_tokens,
            add_generation_prompt=asked.add_generation_prompt and not asked.continue_final_message,
            continue_final_message=asked.continue_final_message,
            variables=asked.variables,
        )

    def _conversation(
        self, messages: Sequence[Message], tools: Sequence[Tool], body: ChatBody | TokenizeBody
    ) -> Conversation:
        template = self._tokenizer.template_text
        documents = getattr(body, "documents", None) or None
        if documents and "documents" not in template:
            raise Refused("The model's chat template takes no documents: put them into a message.", "documents")
        plain = [message.plain() for message in messages]
        if "developer" not in template:
            plain = [m | {"role": "system"} if m["role"] == "developer" else m for m in plain]
        offered = [tool.plain() for tool in tools]
        if offered and "tools" not in template:
            plain, offered = _with_tools_as_text(plain, offered), []
        return Conversation(
            plain,
            offered or None,
            documents,
            body.add_generation_prompt,
            body.continue_final_message,
            getattr(body, "parse_special_tokens", False),
            self._variables(body, template),
        )

    def _variables(self, body: ChatBody | TokenizeBody, template: str) -> dict[str, Any]:
        """What a request sets for the template. A name that the template does not read would be ignored: refused."""
        made = dict(body.chat_template_kwargs)
        for name in made:
            if name in RESERVED or name not in template:
                raise Refused(f"The model's chat template reads no {name[:40]!r}: remove it.", "chat_template_kwargs")
        effort = getattr(body, "reasoning_effort", None)
        if effort == "none" and "enable_thinking" in template:
            made["enable_thinking"] = False
        elif effort is not None:
            if "reasoning_effort" not in template:
                message = f"This model's chat template knows no reasoning_effort {effort[:20]!r}: remove it."
                raise Refused(message, "reasoning_effort")
            made["reasoning_effort"] = effort
        return made


def _with_tools_as_text(messages: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For templates that take no tools: described in the system message, calls and results as plain messages."""
    told = TOOLS_AS_TEXT.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
    first, *others = messages if messages[0]["role"] == "system" else [{"role": "system", "content": ""}, *messages]
    made = [{**first, "content": f"{first['content']}\n\n{told}".strip()}]
    for message in others:
        if message["role"] == "tool":
            message = {"role": "user", "content": f"<tool_response>{message['content']}</tool_response>"}
        elif message.get("tool_calls"):
            calls = [json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"]]
            text = message["content"] + "".join(f"<tool_call>{call}</tool_call>" for call in calls)
            message = {"role": "assistant", "content": text}
        made.append(message)
    return made


def text_bytes(body: CompletionBody | ChatBody) -> int:
    """Of all texts that the prompt is made from, however deep they lie."""
    if isinstance(body, ChatBody):
        read = (body.messages, body.tools, body.documents, body.chat_template_kwargs)
        return sum(_bytes_in(value) for value in read)
    return sum(len(prompt.encode()) for prompt in body.prompts if isinstance(prompt, str))


def _bytes_in(value: Any) -> int:
    """Without recursion: values may be deep."""
    size, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            size += len(one.encode(errors="replace"))
        elif isinstance(one, BaseModel):
            left.append(one.__dict__)
            left.append(one.model_extra or {})
        elif isinstance(one, Mapping):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, Sequence):
            left += one
        else:
            size += SCALAR_BYTES
    return size
