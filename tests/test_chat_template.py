"""Chat templates give the text that transformers gives: its own renderer is the truth here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from pennyweight.chat_template import ChatTemplate, templates_of
from pennyweight.errors import ModelError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a place, in °C & <b>tomorrow</b>.",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    }
]
DOCUMENTS = [{"title": "One", "text": "Ünïcode 'quotes'"}, {"title": "Two", "text": "{{ no }}"}]

# one for each thing that templates on the hub do
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "blocks that are cut": (
        "{{- bos_token }}\n{%- for m in messages %}\n  {%- if true %}\n {{ m.content }}\n{% endif -%}\n x {% endfor %}"
    ),
    "marked for training": (
        "{% for m in messages %}a \n{%- generation -%}\n {{ m.content }} \n{%- endgeneration -%}\n b\n"
        "{% generation %}c{% endgeneration %}\n{% endfor %}"
    ),
    "JSON": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "JSON as asked": (
        "{{ messages | tojson(ensure_ascii=False) }}{{ messages | tojson(separators=(',', ':')) }}"
        "{{ messages | tojson(ensure_ascii=true, sort_keys=true) }}"
        "{{ messages | tojson(False, 1, (', ', ': '), True) }}"
    ),
    "tools": (
        "{% if tools is not none %}{% for t in tools %}{{ t.function.name }}: {{ t | tojson }}{% endfor %}{% endif %}"
        "{% if tools %}{{ tools[0].function.parameters.properties.items() | list | length }}{% endif %}"
    ),
    "documents": (
        "{% if documents %}{% for d in documents %}[{{ loop.index }}] {{ d['title'] | upper }}: {{ d.text }}"
        "{% endfor %}{% endif %}"
    ),
    "state": (
        "{% set ns = namespace(count=0, found=false) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.count = ns.count + 1 %}{% endif %}{% if loop.last %}{% set ns.found = true %}{% endif %}{% endfor %}"
        "{{ ns.count }} {{ ns.found }}"
    ),
    "loops that end": (
        "{% for m in messages %}{% if loop.index0 == 0 %}{% continue %}{% endif %}{{ m.content }}{% break %}"
        "{% endfor %}"
    ),
    "macros and filters": (
        "{% macro say(m, end='') %}{{ m.content | trim | default('none', true) }}{{ end }}{% endmacro %}"
        "{% for m in messages %}{{ say(m, eos_token) }}{% endfor %}{{ messages | map(attribute='role') | join(',') }}"
    ),
    "tests and slices": (
        "{% for m in messages[1:] %}{% if m.content is string and 'a' in m.content %}{{ m.content.split('a')[0] }}"
        "{{ m.content[::-1] }}{% elif m.tool_calls is defined %}calls{% endif %}{% endfor %}{{ unknown is defined }}"
    ),
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.content }}{% endfor %}",
    "missing fields": (
        "{% for m in messages %}{{ m.name }}{{ m['tool_calls'] }}{{ m.get('content', 'none') }}{% endfor %}"
        "{{ pad_token }}"
    ),
    "calls": (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.function.arguments is mapping %}"
        "{{ c.function.arguments | tojson }}{% else %}{{ c.function.arguments }}{% endif %}{% endfor %}{% endfor %}"
    ),
}
content = st.one_of(st.text(max_size=20), st.none())
call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Köln"}'}}
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": content},
    optional={
        "reasoning": st.text(max_size=5),
        "thinking": st.text(max_size=5),
        "tool_calls": st.sampled_from([None, [call], [call, call]]),
        "name": st.text(max_size=5),
    },
)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    messages=st.lists(message, min_size=1, max_size=4),
    tools=st.sampled_from([None, TOOLS]),
    documents=st.sampled_from([None, DOCUMENTS]),
)
def test_the_text_is_that_of_transformers(name: str, messages: list[Any], tools: Any, documents: Any) -> None:
    def theirs() -> str | None:
        kept = [{key: value for key, value in one.items() if value is not None} for one in messages]
        try:
            (text,), _ = render_jinja_template(
                [kept], tools, documents, TEMPLATES[name], add_generation_prompt=True, **SPECIAL
            )
        except Exception:  # a template refuses in any way
            return None
        return str(text)

    wanted = theirs()
    template = ChatTemplate(TEMPLATES[name], SPECIAL)
    if wanted is None:
        with pytest.raises(ModelError):
            template.render(messages, tools=tools, documents=documents)
    else:
        assert template.render(messages, tools=tools, documents=documents) == wanted


def test_a_template_that_is_none_says_where() -> None:
    with pytest.raises(ModelError, match="no Jinja"):
        ChatTemplate("{% for %}", SPECIAL)


@pytest.mark.parametrize(
    ("config", "files", "found"),
    [
        ({}, {}, {}),
        ({"chat_template": "a"}, {}, {"default": "a"}),
        (
            {"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]},
            {},
            {"default": "a", "rag": "b"},
        ),
        ({"chat_template": {"default": "a", "tool_use": "b"}}, {}, {"default": "a", "tool_use": "b"}),
        ({"chat_template": "a"}, {"chat_template.jinja": "b"}, {"default": "b"}),
        ({}, {"chat_template.json": json.dumps({"chat_template": "c"})}, {"default": "c"}),
        ({"chat_template": "a"}, {"chat_template.json": json.dumps({"chat_template": "c"})}, {"default": "a"}),
        (
            {},
            {"chat_template.jinja": "a", "additional_chat_templates/tool_use.jinja": "b"},
            {"default": "a", "tool_use": "b"},
        ),
    ],
)
def test_templates_are_found_wherever_checkpoints_keep_them(
    config: Mapping[str, Any], files: Mapping[str, str], found: Mapping[str, str], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert templates_of(tmp_path, config) == found
