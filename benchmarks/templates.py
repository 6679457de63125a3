"""Do real chat templates give the text that transformers gives?

python -m benchmarks.templates DIRECTORY

DIRECTORY holds .jinja files, such as `vendor/llama.cpp/models/templates` of the source package llama-cpp-python (70).
Each is rendered for conversations of different kinds, here and by transformers' own renderer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from pennyweight.chat_template import ChatTemplate
from pennyweight.errors import ModelError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place & its <wind>, in °C",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CALL = {"id": "call_0001", "type": "function", "function": {"name": "weather", "arguments": {"place": "Köln"}}}


def said(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one question": {"messages": [said("user", "Hi")]},
    "with a system prompt": {"messages": [said("system", " Be brief.\n"), said("user", "Ünïcode 🙂 {{ x }}")]},
    "several turns": {"messages": [said("user", "a"), said("assistant", " b "), said("user", "c\n\nd")]},
    "reasoning": {
        "messages": [said("user", "a"), said("assistant", "b", reasoning_content="because"), said("user", "c")]
    },
    "tools": {"messages": [said("user", "How is it in Köln?")], "tools": [TOOL]},
    "a call and its result": {
        "messages": [
            said("user", "How is it in Köln?"),
            said("assistant", None, tool_calls=[CALL]),
            said("tool", '{"degrees": 21}', tool_call_id="call_0001", name="weather"),
        ],
        "tools": [TOOL],
    },
    "documents": {"messages": [said("user", "Read.")], "documents": [{"title": "One", "text": "Text"}]},
    "roles that do not alternate": {"messages": [said("user", "a"), said("user", "b"), said("assistant", "c")]},
}


def compared(template: str, asked: dict[str, Any]) -> str:
    kept = [{key: value for key, value in one.items() if value is not None} for one in asked["messages"]]
    tools, documents = asked.get("tools"), asked.get("documents")
    try:
        (theirs,), _ = render_jinja_template([kept], tools, documents, template, add_generation_prompt=True, **SPECIAL)
    except Exception:  # in whichever way a template refuses
        theirs = None
    try:
        ours = ChatTemplate(template, SPECIAL).render(asked["messages"], tools=tools, documents=documents)
    except ModelError:
        ours = None
    if ours != theirs:
        return "differs"
    return "refused by both" if ours is None else "same"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    counts: dict[str, int] = {}
    for file in sorted(parser.parse_args().directory.rglob("*.jinja")):
        found = {name: compared(file.read_text(encoding="utf-8"), asked) for name, asked in CONVERSATIONS.items()}
        for result in found.values():
            counts[result] = counts.get(result, 0) + 1
        odd = [name for name, result in found.items() if result == "differs"]
        print(json.dumps({"template": file.stem, "differs": odd, "same": list(found.values()).count("same")}))
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
