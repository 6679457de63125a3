"""Fields of a request: those that change an answer, and those that say only how it is sent or accounted for. A field
that is neither is refused by name: a mistyped one would otherwise be ignored.

Source: OpenAI's API reference for /v1/chat/completions and /v1/completions; others as vLLM's server has them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Fields that change an answer -> the values that ask for nothing. Which engine follows which: docs/fields.md.
CHANGING: Mapping[str, tuple[Any, ...]] = {
    "temperature": (),
    "top_p": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "seed": (),
    "n": (1,),
    "stop": ([],),
    "stop_token_ids": ([],),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_choice": (),
    "guided_regex": (),
    "guided_grammar": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True,),
    "reasoning_effort": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "parse_special_tokens": (False,),
    "truncate_prompt_tokens": (-1,),
    "add_special_tokens": (),
    "echo": (False,),
    # no engine of ours follows these
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}
# Fields that say how an answer is sent, stored or accounted for, and nothing of what it is.
DELIVERY = (
    "cache_salt",
    "logprob_start_len",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "prediction",
    "priority",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "top_logprobs",
    "user",
)
INSTEAD = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "best_of": "use n",
    "n_predict": "use max_tokens",
    "prompt_logprobs": "use echo with logprobs, of /v1/completions",
}


def acting(body: Mapping[str, Any]) -> Iterator[str]:
    """The fields of a body that change its answer. A value that asks for nothing, such as a penalty of 0, does not."""
    for name, value in body.items():
        if name in CHANGING and value is not None and not any(_same(value, nothing) for nothing in CHANGING[name]):
            yield name


def unknown(body: Mapping[str, Any]) -> str | None:
    """A sentence about the first field that no API has; None where all are known."""
    for name, value in body.items():
        if name not in CHANGING and name not in DELIVERY and value is not None:
            return f"{name[:60]} is no field of a request: {instead(name, [*CHANGING, *DELIVERY])}."
    return None


def instead(name: str, known: Iterable[str]) -> str:
    """What to do about a name that is not known."""
    if name in INSTEAD:
        return INSTEAD[name]
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return f"write {near[0]}" if near else "remove it"


def unsupported(names: Iterable[str], followed: Iterable[str]) -> str | None:
    """The first of these that is not followed."""
    known = set(followed)
    return next((name for name in names if name not in known), None)


def _same(value: Any, nothing: Any) -> bool:
    return isinstance(value, bool) == isinstance(nothing, bool) and value == nothing
