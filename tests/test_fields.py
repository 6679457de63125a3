"""docs/fields.md: which engine follows which field of a request. `python -m tests.test_fields` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from pennyweight import engines, workload
from pennyweight.openai_api import fields
from pennyweight.openai_api.bodies import ChatBody, CompletionBody

PAGE = Path(__file__).parent.parent / "docs" / "fields.md"
SERVED = [name for name in engines.ENGINES if name not in ("remote", "scripted", "vllm")]
HEAD = """# Fields of a request, and the engines that follow them

A field that changes an answer acts, or the request is refused with a 400 that names it; a name that no API has is
refused too. Values that ask for nothing, such as a penalty of 0, are taken everywhere. `vllm` is no row here: it speaks
the OpenAI API itself and gets requests as they are. Written by `python -m tests.test_fields` from the engines' classes;
`tests/contracts/test_engines.py` holds the engines to it.

"""


def page() -> str:
    rows = [["field", *SERVED], ["---"] * (len(SERVED) + 1)]
    for name in fields.CHANGING:
        followed = [name in engines.engine_class(engine).followed_fields() for engine in SERVED]
        if any(followed):
            rows.append([f"`{name}`", *("yes" if one else "400" for one in followed)])
    nowhere = [name for name in fields.CHANGING if not any(name in row[0] for row in rows)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return (
        f"{HEAD}{table}\nRefused by every engine of ours: {', '.join(f'`{name}`' for name in nowhere)}.\n\n"
        "Taken by every engine; they say what is asked, how long it may get, and how it is sent and accounted for: "
        f"{', '.join(f'`{name}`' for name in fields.DELIVERY)}.\n"
    )


def test_the_page_is_what_the_engines_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.test_fields`"


def test_every_field_of_a_body_is_in_the_table() -> None:
    for body in (ChatBody, CompletionBody):
        for name, field in body.model_fields.items():
            assert (field.alias or name) in {*fields.CHANGING, *fields.DELIVERY}


def test_what_a_workload_can_replay_is_known() -> None:
    assert set(workload.ANSWER_FIELDS) <= set(fields.CHANGING)
    assert set(workload.DELIVERY_FIELDS) <= set(fields.DELIVERY)


def test_a_mistyped_field_is_named_with_the_right_one() -> None:
    assert fields.unknown({"temprature": 1}) == "temprature is no field of a request: write temperature."
    assert re.search("remove it", fields.unknown({"zzz": 1}) or "")
    assert fields.unknown({"temperature": 1, "user": "x", "zzz": None}) is None


def test_a_value_that_asks_for_nothing_does_not_act() -> None:
    body = {"n": 1, "logit_bias": {}, "presence_penalty": 0.0, "echo": False, "tool_choice": "auto", "stop": None}
    assert list(fields.acting(body)) == []
    assert list(fields.acting({"n": True, "echo": 0})) == ["n", "echo"]  # of another type: refused by the body


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
