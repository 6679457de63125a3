"""A chat answer's text as what it means: content, reasoning and tool calls, for the format that the model writes.

A reader takes all text so far and returns what is certain of it; a stream sends what is new. So each part of a reading
only grows while the text grows, and a marker that has only begun is held back.

Formats, by the markers in the model's chat template: Hermes and Qwen (<tool_call> with JSON), Qwen-Coder
(<function=…>), Llama 3 (bare JSON with `parameters`), Mistral ([TOOL_CALLS]), Phi-4 and Granite (<|tool_call|>), Gemma
(call:name{…}), GPT-OSS (harmony channels). Sources: the models' own templates; OpenAI's description of harmony.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pennyweight.openai_api import gemma_calls, harmony
from pennyweight.openai_api.reading import Call, Reading, before_calls, before_marker, json_call, json_calls
from pennyweight.openai_api.validating import Holds, text_holds

THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
Arguments = Mapping[str, Mapping[str, Any]]  # function -> the JSON schema of its arguments
CallReader = Callable[[str, bool, Arguments], Reading]


def hermes(text: str, whole: bool, schemas: Arguments) -> Reading:
    """<tool_call>{"name": …, "arguments": …}</tool_call>, once a call; Qwen-Coder writes XML inside. What stands after
    the last call, or is no call at all, is content."""
    found, calls, rest = before_calls(text, "<tool_call>", whole), list[Call](), ""
    for part in text.split("<tool_call>")[1:]:
        body = part.lstrip()
        if body.startswith("<function="):
            call = xml_call(part.partition("</tool_call>")[0].strip(), schemas)
        else:
            call = json_call(body)
        calls += [] if call is None else [call]
        after = part if call is None else body[call.length :] if call.length else ""
        rest = after.partition("</tool_call>")[2].strip()
    if whole and "<tool_call>" in text and not calls:
        return Reading(text)
    return Reading(found + (f"\n{rest}" if whole and rest else ""), calls=tuple(calls))


def xml_call(body: str, schemas: Arguments) -> Call | None:
    """<function=name><parameter=key>value</parameter>…</function>, as Qwen3-Coder writes calls. Shown when whole: its
    arguments become JSON only then."""
    name, _, rest = body.removeprefix("<function=").partition(">")
    if not rest or "</function>" not in rest:
        return None
    types = schemas.get(name, {}).get("properties", {})
    pairs = re.findall(r"<parameter=([^>]+)>\n?(.*?)\n?</parameter>", rest, re.DOTALL)
    return Call(name, json.dumps({key: _typed(value, types.get(key, {})) for key, value in pairs}, ensure_ascii=False))


def llama(text: str, whole: bool, schemas: Arguments) -> Reading:
    """The whole answer is JSON, {"name": …, "parameters": …}, perhaps after <|python_tag|>; several with ; between."""
    del schemas
    body = text.lstrip().removeprefix("<|python_tag|>").lstrip()
    if (not body and not whole) or ("<|python_tag|>".startswith(text.strip()) and not whole):
        return Reading()
    if not body.startswith("{"):
        return Reading(text)
    calls, rest = [], body
    while rest.startswith("{"):
        call = json_call(rest)
        if call is None:
            break
        calls.append(call)
        rest = rest[call.length :].lstrip("; \n") if call.length else ""
    return Reading(text) if whole and not calls else Reading(calls=tuple(calls))


def mistral(text: str, whole: bool, schemas: Arguments) -> Reading:
    """[TOOL_CALLS] [{"name": …, "arguments": …}], or [TOOL_CALLS]name[ARGS]{…} for each call."""
    del schemas
    marker, calls = "[TOOL_CALLS]", list[Call]()
    found = before_calls(text, marker, whole)
    for part in text.split(marker)[1:]:
        body = part.strip()
        if body.startswith(("[", "{")):
            calls += json_calls(body)
        elif "[ARGS]" in body:
            name, _, arguments = body.partition("[ARGS]")
            calls.append(Call(re.split(r"\[CALL_ID\]", name)[0].strip(), arguments.strip()))
    return Reading(text if whole and not calls else found, calls=tuple(calls))


def tagged(text: str, whole: bool, schemas: Arguments) -> Reading:
    """<|tool_call|>[{"name": …, "arguments": …}]<|/tool_call|>, of Phi-4 and Granite."""
    del schemas
    marker, calls = "<|tool_call|>", list[Call]()
    found = before_calls(text, marker, whole)
    for part in text.split(marker)[1:]:
        calls += json_calls(part.partition("<|/tool_call|>")[0].strip())
    return Reading(text if whole and not calls else found, calls=tuple(calls))


def forced(text: str, whole: bool, schemas: Arguments) -> Reading:
    """The answer to a `tool_choice` that demands a call: a JSON array of them, which a schema forces."""
    del whole, schemas
    return Reading(calls=tuple(json_calls(text.strip())))


# What a chat template holds -> how calls are read; the first that fits.
FORMATS: Sequence[tuple[str, CallReader]] = (
    ("<|channel|>", harmony.read),
    ("<start_function_call>", gemma_calls.function_gemma),
    ("<|tool_call>", gemma_calls.gemma),
    ("[TOOL_CALLS]", mistral),
    ("<|tool_call|>", tagged),
    ("<tool_call>", hermes),
    ('"parameters"', llama),
    ("<|python_tag|>", llama),
)


def calls_of(template: str) -> CallReader | None:
    """How a model with this chat template writes calls; None where its template takes no tools."""
    if "tools" not in template:
        return None
    return next((reader for marker, reader in FORMATS if marker in template), hermes)


@dataclass(frozen=True)
class Reader:
    """`thoughts` are the markers around reasoning, if the template has some; `opened`: the prompt ends inside them.
    `strict` checks the arguments of the functions that demand it. Calls after the first `most` are left out."""

    calls: CallReader | None = None
    schemas: Arguments = None  # type: ignore[assignment]
    thoughts: tuple[str, str] | None = None
    opened: bool = False
    strict: Mapping[str, Holds] | None = None
    most: int | None = None

    def __call__(self, text: str, whole: bool) -> Reading:
        read = self._read(text, whole)
        if self.strict and read.calls:
            read = held_to(read, self.strict, whole)
        return read if self.most is None else replace(read, calls=read.calls[: self.most])

    def _read(self, text: str, whole: bool) -> Reading:
        if self.calls is harmony.read:
            return harmony.read(text, whole, self.schemas or {})
        thought = ""
        if self.thoughts is not None:
            opening, closing = self.thoughts
            begun = text.lstrip()
            inside = self.opened
            if begun.startswith(opening):
                inside, text = True, begun[len(opening) :]
            elif not inside and opening.startswith(begun) and not whole:
                return Reading()
            if inside:
                if closing not in text:
                    return Reading(reasoning=before_marker(text, closing, whole).lstrip("\n"))
                thought, _, text = text.partition(closing)
                thought, text = thought.lstrip("\n"), text.lstrip("\n")
        read = Reading(text) if self.calls is None else self.calls(text, whole, self.schemas or {})
        return replace(read, reasoning=thought)


def held_to(read: Reading, strict: Mapping[str, Holds], whole: bool) -> Reading:
    """A call of a `strict` function is shown once its arguments are whole and hold their schema. One whose arguments do
    not is no call: it is content when the answer ends."""
    kept, left = list[Call](), list[str]()
    for call in read.calls:
        holds = strict.get(call.name)
        fine = True if holds is None else text_holds(call.arguments, holds)
        if fine:
            kept.append(call)
        elif whole:
            left.append(f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}')
        elif fine is None:
            break  # still being written: what follows waits, so that calls keep their order
    content = "\n".join([read.content, *left] if read.content else left) if left else read.content
    return replace(read, content=content, calls=tuple(kept))


def thoughts_of(template: str) -> tuple[str, str] | None:
    return next((pair for pair in THOUGHTS if pair[0] in template and pair[1] in template), None)


def _typed(value: str, schema: Mapping[str, Any]) -> Any:
    """A parameter's text in the type that its schema names."""
    if schema.get("type") in (None, "string"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(value, value)
