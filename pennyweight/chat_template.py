"""Chat templates of checkpoints: which one is used, and the Jinja environment that templates on the hub rely on.

Settings, filters and functions are those of transformers (`utils/chat_template_utils.py` documents them), without
importing it, which costs seconds and 200 MB. That the text is the same is a test, over the templates of many models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pennyweight.errors import ModelError

FILE, OLD_FILE, MORE = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one field, in the order in which they count
Templates = Mapping[str, str]  # name -> template; one without a name is called `default`


def templates_of(directory: Path, config: Mapping[str, Any]) -> Templates:
    """All templates of the checkpoint in this directory; `config` is its tokenizer_config.json."""
    found: dict[str, str] = {}
    inside = config.get("chat_template")
    if isinstance(inside, list):  # of {"name", "template"}
        found = {str(one.get("name")): str(one.get("template") or "") for one in inside if isinstance(one, dict)}
    elif isinstance(inside, dict):
        found = {str(name): str(template) for name, template in inside.items()}
    elif inside:
        found["default"] = str(inside)
    if not found and (directory / OLD_FILE).exists():
        found["default"] = _old(directory / OLD_FILE)
    if (directory / FILE).exists():
        found["default"] = (directory / FILE).read_text(encoding="utf-8")
    for file in sorted((directory / MORE).glob("*.jinja")):
        found[file.stem] = file.read_text(encoding="utf-8")
    return {name: template for name, template in found.items() if template}


class ChatTemplate:
    """One template, compiled. `special` are the tokens that it may name, such as `bos_token`."""

    def __init__(self, text: str, special: Mapping[str, str]) -> None:
        from jinja2 import TemplateSyntaxError

        self._special = dict(special)
        try:
            self._template = _environment().from_string(text)
        except TemplateSyntaxError as error:
            raise ModelError(
                f"The model's chat template is no Jinja ({error}): copy it again, or give another in {FILE}."
            ) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text that asks for the next answer. Raises `ModelError` for messages that the template does not take."""
        try:
            text: str = self._template.render(
                messages=[_message(one) for one in messages],
                tools=None if tools is None else list(tools),
                documents=None if documents is None else list(documents),
                add_generation_prompt=add_generation_prompt,
                **{**self._special, **(variables or {})},
            )
            return text
        except ModelError:
            raise
        except Exception as error:  # a template is third-party code: any error is about these messages
            raise ModelError(
                f"The model's chat template does not take these messages ({type(error).__name__}: {error}): write them "
                "as the model's card shows."
            ) from None


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Without fields that are null, which templates would print; with reasoning under each of its names."""
    kept = {name: value for name, value in message.items() if value is not None}
    reasoning = next((kept[name] for name in REASONING if name in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words for training; in a prompt it is transparent."""

        tags = {"generation"}  # noqa: RUF012  # as Jinja asks for

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

        def _written(self, caller: Any) -> str:
            return str(caller())

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise ModelError(f"The model's chat template refuses these messages: {message}.")


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _old(file: Path) -> str:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is no JSON ({error}): copy it again from the source.") from None
    return str(value.get("chat_template") or "") if isinstance(value, dict) else ""
