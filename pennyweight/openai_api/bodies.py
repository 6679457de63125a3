"""The OpenAI API's bodies: request fields and their types, which are strict. Contains no engine and no network code.

Source: OpenAI's API reference for /v1/completions and /v1/chat/completions; `ignore_eos`, `return_token_ids` and
`max_tokens: 0` with `echo` are spelled as vLLM's server has them, `logprob_start_len` as SGLang's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pennyweight.openai_api.forms import ResponseFormat
from pennyweight.openai_api.tools import Tool, chosen_tool

MAX_ANSWERS = 16  # of one request
MAX_PROMPTS = 64  # of one request
MAX_BIASES = 1024
MAX_STOPS = 10_000  # characters of one, or texts
MAX_TEXTS = 2048  # of one request for embeddings
STRICT = ConfigDict(strict=True)
Stop = Annotated[str, Field(min_length=1)]
# What clients send back of an answer, and marks of theirs that change no prompt.
REPEATED = ("annotations", "audio", "cache_control", "id", "metadata", "refusal", "status", "type")
REASONING = ("reasoning", "reasoning_content", "thinking")


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    continuous_usage_stats: bool = False  # every chunk has the usage so far, as vLLM's server has it
    include_obfuscation: bool = False  # random padding of OpenAI's own servers: nothing to add here


class Body(BaseModel):
    """What both calls share."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = ""
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    logit_bias: dict[str, float] = Field({}, max_length=MAX_BIASES)
    min_tokens: int = Field(0, ge=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | list[Stop] | None = Field(None, max_length=MAX_STOPS)
    stop_token_ids: list[int] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MAX_ANSWERS)
    ignore_eos: bool = False
    truncate_prompt_tokens: int = Field(-1, ge=-1)
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    response_format: ResponseFormat | None = None
    # how a request is sent and accounted for
    user: str | None = None
    metadata: dict[str, Any] | None = None
    priority: int | None = None
    store: bool | None = None
    request_id: str | None = None
    cache_salt: str | None = Field(None, min_length=1)
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        """OpenAI's schema lets clients send null for what they leave to the server."""
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _is_possible(self) -> Body:
        for token, bias in self.logit_bias.items():
            if not (token.isascii() and token.isdigit()) or not -100 <= bias <= 100:
                raise ValueError(f"logit_bias maps token ids to numbers from -100 to 100, not {token[:20]!r} to {bias}")
        most = max((getattr(self, name, None) or 0 for name in ("max_tokens", "max_completion_tokens")), default=0)
        if most and self.min_tokens > most:
            raise ValueError(f"min_tokens {self.min_tokens} is more than the {most} that the answer may have")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_in_chunks(self) -> bool:
        return self.include_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(Body):
    prompt: str | list[int] | list[str] | list[list[int]] = Field(min_length=1)
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    add_special_tokens: bool = True
    logprob_start_len: int = Field(0, ge=0)

    @property
    def top_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One or several, each a text or token ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    @model_validator(mode="after")
    def _prompts_have_something(self) -> CompletionBody:
        if len(self.prompts) > MAX_PROMPTS:
            raise ValueError(f"prompt has {len(self.prompts)} prompts: send at most {MAX_PROMPTS} at once")
        if not all(self.prompts):
            raise ValueError("a prompt is empty: send some text")
        return self


class Part(BaseModel):
    model_config = STRICT

    type: str
    text: str | None = None

    @model_validator(mode="after")
    def _is_text(self) -> Part:
        if self.type not in ("text", "input_text", "output_text") or self.text is None:
            raise ValueError(f"a part of type {self.type[:40]!r} is not supported: this model reads text only")
        return self


class CalledFunction(BaseModel):
    model_config = STRICT

    name: str
    arguments: str | dict[str, Any] = "{}"

    @property
    def as_object(self) -> Any:
        """Templates write arguments as JSON themselves, so they get the object."""
        if not isinstance(self.arguments, str):
            return self.arguments
        try:
            return json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            return self.arguments


class ToolCall(BaseModel):
    model_config = STRICT

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = ""
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _fields_are_known(self) -> Message:
        for name, value in (self.model_extra or {}).items():
            if name not in (*REASONING, *REPEATED) and value not in (None, [], {}, ""):
                raise ValueError(f"a message has no field {name[:40]!r}: remove it")
        return self

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""

    def plain(self) -> dict[str, Any]:
        """As chat templates take it."""
        made: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.tool_calls:
            made["tool_calls"] = [
                {
                    "id": c.id,
                    "type": "function",
                    "function": {"name": c.function.name, "arguments": c.function.as_object},
                }
                for c in self.tool_calls
            ]
        made |= {k: v for k, v in {"name": self.name, "tool_call_id": self.tool_call_id}.items() if v}
        thought = next((v for name in REASONING if (v := (self.model_extra or {}).get(name))), None)
        return made | ({"reasoning_content": str(thought)} if thought else {})


class Templated(BaseModel):
    """What a chat's prompt is made from."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] = []
    documents: list[dict[str, Any]] = []
    parse_special_tokens: bool = False  # control tokens that messages spell act as such
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}

    @model_validator(mode="after")
    def _ends_once(self) -> Templated:
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message goes on with an assistant's message: end with one")
        if (
            self.continue_final_message
            and "add_generation_prompt" in self.model_fields_set
            and self.add_generation_prompt
        ):
            raise ValueError("add_generation_prompt begins a new message and continue_final_message goes on: send one")
        return self


class ChatBody(Templated, Body):
    model_config = ConfigDict(extra="allow", strict=True)

    tools: list[Tool] = Field([], min_length=1)
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    add_special_tokens: Literal[False] = False  # the template writes them
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs_asked: int | None = Field(None, ge=0, le=20, alias="top_logprobs")

    @model_validator(mode="after")
    def _tools_are_there(self) -> ChatBody:
        if "tool_choice" in self.model_fields_set and not self.tools:
            raise ValueError("tool_choice needs tools: send some, or remove it")
        chosen_tool(self.tool_choice, self.tools)
        if self.top_logprobs_asked is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def top_logprobs(self) -> int | None:
        return (self.top_logprobs_asked or 0) if self.logprobs else None


class TokenizeBody(BaseModel):
    """A text or a chat, as vLLM's server has it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str = ""
    prompt: str | None = Field(None, min_length=1)
    add_special_tokens: bool | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    tools: list[Tool] = []
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _is_one_of_both(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("send prompt or messages")
        return self


class DetokenizeBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    model: str = ""
    tokens: list[int]


class EmbeddingsBody(BaseModel):
    """`pooling` is ours: the mean of all positions' hidden states, or the last one."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str = ""
    input: str | list[str] | list[int] | list[list[int]] = Field(min_length=1)
    encoding_format: Literal["float", "base64"] = "float"
    pooling: Literal["mean", "last"] = "mean"
    dimensions: None = None  # vectors are not made to be cut
    user: str | None = None

    @property
    def texts(self) -> Sequence[str | list[int]]:
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]
        return self.input

    @model_validator(mode="after")
    def _texts_have_something(self) -> EmbeddingsBody:
        if len(self.texts) > MAX_TEXTS or not all(self.texts):
            raise ValueError(f"input holds 1 to {MAX_TEXTS} texts, and none is empty")
        return self
