"""The OpenAI API's bodies: request and answer fields. Contains no engine and no network code.

Source: OpenAI's API reference for /v1/completions and /v1/chat/completions; `ignore_eos`, `return_token_ids` and
`max_tokens: 0` with `echo` are spelled as vLLM's server has them, `logprob_start_len` as SGLang's.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_ANSWERS = 16  # of one request
# Fields that change an answer and that only some servers follow -> the values that ask for nothing.
CHANGING_FIELDS: dict[str, tuple[Any, ...]] = {
    "top_k": (-1, 0),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "tool_choice": ("none", "auto"),
    "best_of": (1,),
    "suffix": ("",),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "chat_template_kwargs": ({},),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "typical_p": (1,),
}


class StreamOptions(BaseModel):
    include_usage: bool = False


class NamedSchema(BaseModel):
    name: str = ""
    definition: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type json_schema needs json_schema, an object with the schema")
        return self

    @property
    def requested_schema(self) -> dict[str, Any] | None:
        if self.type == "text":
            return None
        return self.json_schema.definition if self.json_schema else {"type": "object"}


class Body(BaseModel):
    """What both calls share."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MAX_ANSWERS)
    ignore_eos: bool = False
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] = []

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        """OpenAI's schema lets clients send null for what they leave to the server."""
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def unheeded(self) -> str | None:
        """The first field that would change the answer and that our worker does not know; None where there is none.
        A value that asks for nothing, such as a penalty of 0, is no such field."""
        for name, nothing in CHANGING_FIELDS.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in nothing:
                return name
        return None

    @property
    def requested_schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow."""
        return self.response_format.requested_schema if self.response_format else None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(Body):
    prompt: str | list[int] = Field(min_length=1)
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0)
    echo: bool = False
    logprob_start_len: int = Field(0, ge=0)

    @property
    def top_logprobs(self) -> int | None:
        return self.logprobs


class TokenizeBody(BaseModel):
    """As vLLM's server has it."""

    prompt: str = Field(min_length=1)
    add_special_tokens: bool = True


class Part(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = ""

    def plain(self) -> dict[str, str]:
        parts = self.content if isinstance(self.content, list) else []
        return {"role": self.role, "content": "".join(p.text for p in parts) if parts else str(self.content or "")}


class ChatBody(Body):
    messages: list[Message] = Field(min_length=1)
    parse_special_tokens: bool = False  # control tokens that messages spell act as such
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs_asked: int | None = Field(None, ge=0, le=20, alias="top_logprobs")

    @property
    def top_logprobs(self) -> int | None:
        return (self.top_logprobs_asked or 0) if self.logprobs else None
