"""A request's body as what the engine is asked and how it is answered: one `Generation` and one `Answer` for each."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pennyweight.engines.base import Engine
from pennyweight.errors import EngineRefused
from pennyweight.generation import SCORED_TOPS, Form, Generation
from pennyweight.openai_api import fields, forms, harmony, json_schema
from pennyweight.openai_api.answers import Answer, rows_of_prompt
from pennyweight.openai_api.bodies import Body, ChatBody, CompletionBody
from pennyweight.openai_api.readers import Reader, calls_of, forced, hermes, thoughts_of
from pennyweight.openai_api.tools import Tool, chosen_tool, forced_schema
from pennyweight.openai_api.validating import Holds, validating
from pennyweight.tokenizer import Tokenizer
from pennyweight.worker.host import Host
from pennyweight.worker.prompts import Prompts, Refused
from pennyweight.worker.streaming import Ended, Generating, Growing, Rescored, copies

MAX_SEQUENCES = 128  # of one request
CALLS: tuple[type[CompletionBody], type[ChatBody]] = (CompletionBody, ChatBody)
NAMES = {call: {field.alias or name for name, field in call.model_fields.items()} for call in CALLS}
OF_THE_OTHER = {call: set().union(*NAMES.values()) - names for call, names in NAMES.items()}
PROMPT_END = 8  # tokens, in which a prompt opens the model's reasoning


@dataclass(frozen=True)
class Served:
    """What the worker serves: everything that a request handler needs."""

    engine: Engine
    host: Host
    tokenizer: Tokenizer
    prompts: Prompts
    names: tuple[str, ...]  # model names that requests may use
    context_length: int
    fingerprint: str = ""

    async def growing(self, body: CompletionBody | ChatBody) -> list[Growing]:
        """The answers to a request, each with what generates it. Raises `Refused` before anything is generated."""
        self.check_fields(body)
        prompts = await self.prompts.tokens_of(body)
        if len(prompts) * body.n > MAX_SEQUENCES:
            raise Refused(f"{len(prompts)} prompts and n={body.n} are more than {MAX_SEQUENCES} answers.", "n")
        asked = [self.generation(body, prompt) for prompt in prompts]
        made: list[Growing] = []
        for place, (prompt, generation) in enumerate(zip(prompts, asked, strict=True)):
            shared = await self._answer(body, prompt, _text_of(body, place))
            pairs = zip(shared.copies(body.n, len(made)), copies(generation, body.n), strict=True)
            made += [(answer, self._generating(body, answer, one)) for answer, one in pairs]
        first = made[0][0]
        for answer, _ in made:
            answer.id, answer.created = first.id, first.created
        return made

    def check_fields(self, body: CompletionBody | ChatBody) -> None:
        """Each field acts or is refused by name."""
        given = body.model_dump(by_alias=True, exclude_unset=True)
        if sentence := fields.unknown(given):
            raise Refused(sentence, sentence.split()[0])
        if name := next((name for name in given if name in OF_THE_OTHER[type(body)]), None):
            raise Refused(f"{name} is a field of the other call, chat or completions: remove it.", name)
        name = fields.unsupported(fields.acting(given), self.engine.followed_fields())
        if name is not None:
            instead = fields.INSTEAD.get(name, "remove it")
            raise Refused(f"{self.engine.name} does not support {name}: {instead}.", name)

    def generation(self, body: CompletionBody | ChatBody, prompt: list[int]) -> Generation:
        form = self._form(body)
        self._check_ids(body)
        asked = self._length(body, prompt)
        ends = () if body.ignore_eos and form is None else self.tokenizer.end_tokens
        tops = body.top_logprobs or 0
        most = max(self.engine.max_top_logprobs, SCORED_TOPS)
        if asked and tops > most:
            raise Refused(f"{self.engine.name} gives at most {most} top_logprobs.", "logprobs")
        return Generation(
            id=uuid.uuid4().hex,
            prompt=prompt,
            max_tokens=asked,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
            stop_tokens=tuple(dict.fromkeys([*ends, *body.stop_token_ids])),
            top_logprobs=None if body.top_logprobs is None else min(tops, self.engine.max_top_logprobs),
            form=form,
            top_k=max(0, body.top_k),
            min_p=body.min_p,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=body.repetition_penalty,
            logit_bias=tuple((int(token), bias) for token, bias in body.logit_bias.items()),
            min_tokens=body.min_tokens,
        )

    def _check_ids(self, body: Body) -> None:
        size = self.tokenizer.vocabulary_size
        for name, ids in (("stop_token_ids", body.stop_token_ids), ("logit_bias", [int(t) for t in body.logit_bias])):
            outside = [token for token in ids if not 0 <= token < size]
            if outside:
                raise Refused(f"{name}: the token id {outside[0]} is outside the vocabulary of {size}.", name)

    def _length(self, body: CompletionBody | ChatBody, prompt: Sequence[int]) -> int:
        room = self.context_length - len(prompt)
        asked = body.max_tokens
        if isinstance(body, ChatBody):
            asked = body.max_completion_tokens or body.max_tokens or room
        assert asked is not None
        if asked > room or (isinstance(body, ChatBody) and room < 1):
            whole = f"the prompt ({len(prompt)}) with the answer ({asked}) would be {len(prompt) + asked}"
            mend = "shorten the prompt or lower max_tokens"
            if room < 1:
                whole, mend = f"the prompt has {len(prompt)}, which leaves none for the answer", "shorten it"
            raise Refused(
                f"This model's context is {self.context_length} tokens, and {whole}: {mend}.",
                "messages" if isinstance(body, ChatBody) else "prompt",
                "context_length_exceeded",
            )
        if not asked and not (isinstance(body, CompletionBody) and body.echo):
            raise Refused("max_tokens 0 generates nothing: add echo and logprobs to score the prompt.", "max_tokens")
        return asked

    def _form(self, body: CompletionBody | ChatBody) -> Form | None:
        """What the answer must follow, in the words that this engine follows."""
        name, param = _called(body), "tool_choice"
        if name is not None and isinstance(body, ChatBody):
            if has_form(body, calls=False):
                raise Refused("tool_choice asks for a call and another field for a form: send one.", "tool_choice")
            schema = forced_schema(body.tools, name, parallel=body.parallel_tool_calls)
            form = Form("json_schema", json.dumps(schema), compact=True)
        else:
            try:
                found = forms.requested(body.model_dump(exclude_unset=True), body.response_format)
            except EngineRefused as error:
                raise Refused(str(error), "structured_outputs") from None
            if found is None:
                return None
            param, form = found
        if form.kind not in self.engine.forms:
            raise Refused(f"{self.engine.name} cannot hold an answer to a {form.kind}: remove {param}.", param)
        if form.kind != "json_schema" or self.engine.any_schema:
            return form
        try:
            return replace(form, text=json_schema.followed(json.loads(form.text)))
        except EngineRefused as error:
            raise Refused(str(error), param) from None

    async def _answer(self, body: CompletionBody | ChatBody, prompt: list[int], text: str | None) -> Answer:
        completes = isinstance(body, CompletionBody)
        strict: Mapping[str, Holds] = {}
        if isinstance(body, ChatBody) and body.tool_choice == "auto":  # a forced call follows its schema anyway
            strict = await asyncio.to_thread(_checks, body.tools)
        echo = ""
        if isinstance(body, CompletionBody) and body.echo:
            echo = self.tokenizer.spelled(prompt) if text is None else text
        answer = Answer(
            chat=not completes,
            model=body.model or self.names[0],
            prompt_tokens=prompt,
            tokenizer=self.tokenizer,
            echo=echo,
            with_logprobs=body.top_logprobs is not None,
            with_token_ids=body.return_token_ids,
            tokens_as_ids=body.return_tokens_as_token_ids,
            includes_usage=body.include_usage,
            usage_in_chunks=body.usage_in_chunks,
            fingerprint=self.fingerprint,
            cached=None if getattr(self.engine, "enable_prefix_caching", True) else 0,
            reader=self._reader(body, prompt, strict) if isinstance(body, ChatBody) else None,
        )
        if isinstance(body, CompletionBody) and body.echo and body.logprobs is not None:
            start = min(max(1, body.logprob_start_len), len(prompt) - 1)
            if len(prompt) == 1:
                answer.prompt_rows = [(prompt[0], None, ())]
            else:
                score = await self.host.score(prompt, start)
                answer.prompt_rows = rows_of_prompt(prompt, score, start, body.logprobs)
        return answer

    def _reader(self, body: ChatBody, prompt: Sequence[int], strict: Mapping[str, Holds]) -> Reader | None:
        template = self.tokenizer.template_text
        tools = body.tools if body.tool_choice != "none" else []
        calls = calls_of(template)
        thoughts = thoughts_of(template)
        if _called(body) is not None:
            return Reader(forced)
        if calls is not harmony.read:
            calls = (calls or hermes) if tools else None
            if calls is None and thoughts is None:
                return None
        schemas = {tool.function.name: tool.function.parameters or {} for tool in tools}
        end = self.tokenizer.spelled(prompt[-PROMPT_END:]).rstrip()
        return Reader(
            calls,
            schemas,
            thoughts,
            opened=bool(thoughts and end.endswith(thoughts[0])),
            strict=strict,
            most=1 if not body.parallel_tool_calls else None,
        )

    def _generating(self, body: CompletionBody | ChatBody, answer: Answer, generation: Generation) -> Generating:
        if not generation.max_tokens:
            return Ended()
        goes_on = generation.prompt if isinstance(body, CompletionBody) else ()
        spelled = answer.reader is not None
        made = Generating(
            self.host, self.tokenizer, generation, body.stops, goes_on_from=goes_on, with_control_tokens=spelled
        )
        tops = body.top_logprobs or 0
        return Rescored(made, self.host, generation, tops) if tops > self.engine.max_top_logprobs else made


def _called(body: CompletionBody | ChatBody) -> str | None:
    """The tool that must be called; "" where any must, None where none must."""
    return chosen_tool(body.tool_choice, body.tools) if isinstance(body, ChatBody) else None


def _checks(tools: Sequence[Tool]) -> dict[str, Holds]:
    """What holds the arguments of `strict` functions to their schemas. Raises `Refused`."""
    found = {}
    for function in (tool.function for tool in tools if tool.function.strict):
        try:
            found[function.name] = validating(function.schema_of_arguments)
        except ValueError as error:
            raise Refused(f"strict: the parameters of {function.name!r}: {error}.", "tools") from None
    return found


def _text_of(body: CompletionBody | ChatBody, place: int) -> str | None:
    """A prompt's own text, where it was sent as one and is whole."""
    if isinstance(body, ChatBody) or body.truncate_prompt_tokens >= 1:
        return None
    sent = body.prompts[place]
    return sent if isinstance(sent, str) else None


def has_form(body: CompletionBody | ChatBody, *, calls: bool = True) -> bool:
    """May the engine itself refuse the request, for the form that its answer shall have?"""
    given = body.model_extra or {}
    asked = [given.get("structured_outputs"), *(given[name] for name in given if name.startswith("guided_"))]
    formed = body.response_format is not None and body.response_format.requested_schema is not None
    return formed or any(asked) or (calls and _called(body) is not None)


def fingerprint_of(description: Mapping[str, Any]) -> str:
    """Equal for the same engine, settings and model: what OpenAI calls system_fingerprint."""
    told = {name: description.get(name) for name in ("engine", "settings", "model_path")}
    return f"fp_{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]}"
