"""Pennyweight's own JSONL: one request per line, the fields of `Request` by name.

    {"id": "a", "messages": [{"role": "user", "content": "2+2?"}], "max_tokens": 8, "reference": "4",
     "scorer": "numeric"}

`prompt` (text) or `prompt_tokens` may stand in place of `messages`; `id`, `session`, `arrival` (seconds), `kind` and
`choices` are optional, and so are OpenAI's fields that change an answer, such as `temperature` and `response_format`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pennyweight.errors import WorkloadError
from pennyweight.traces.lines import Line, answer_fields, checked, each_line, messages_of
from pennyweight.workload import SCORERS, Request, Workload


def recognises(head: str) -> bool:
    first = head.splitlines()[0]
    return first.startswith("{") and any(f'"{name}"' in first for name in ("messages", "prompt", "prompt_tokens"))


def read(path: Path, name: str | None = None, skip_invalid: Callable[[str], None] | None = None) -> Workload:
    requests = each_line(path, _request, skip_invalid)
    return Workload(name or path.stem, checked(path, requests, skip_invalid))


def write(workload: Workload, path: Path) -> None:
    """The workload as a new file of this format. Raises `WorkloadError` where it has lengths only, or the file is there
    already or cannot be written."""
    if any(request.shape for request in workload.requests):
        raise WorkloadError(f"{workload.name} has lengths only, and no texts to write: replay it as it is.")
    try:
        with path.open("x", encoding="utf-8") as file:
            for request in workload.requests:
                file.write(json.dumps(request.as_json(), ensure_ascii=False) + "\n")
    except FileExistsError:
        raise WorkloadError(f"{path} is already there: give another name.") from None
    except OSError as error:
        raise WorkloadError(f"{path} cannot be written ({error.strerror}): give another name.") from None


def _request(line: Line) -> Request:
    value = line.value
    identifier = str(_given(line, "id", f"line-{line.number}"))
    limit_name = "max_completion_tokens" if value.get("max_completion_tokens") is not None else "max_tokens"
    given = [name for name in ("messages", "prompt", "prompt_tokens") if value.get(name)]
    if len(given) != 1:
        raise line.fault("exactly one of messages, prompt and prompt_tokens must be given")
    arrival = value.get("arrival")
    if arrival is not None and (isinstance(arrival, bool) or not isinstance(arrival, int | float)):
        raise line.fault("arrival must be a number of seconds")
    return Request(
        id=identifier,
        session=str(_given(line, "session", identifier)),
        max_tokens=line.count(limit_name) if value.get(limit_name) is not None else 128,
        messages=messages_of(line, value["messages"]) if given == ["messages"] else (),
        prompt=_text(line, "prompt") if given == ["prompt"] else "",
        prompt_tokens=_tokens(line) if given == ["prompt_tokens"] else (),
        arrival=None if arrival is None else float(arrival),
        reference=None if value.get("reference") is None else str(value["reference"]),
        scorer=_scorer(line),
        choices=_choices(line),
        kind=str(_given(line, "kind", "")),
        fields=answer_fields(line),
    )


def _given(line: Line, name: str, default: str) -> Any:
    """Null is as good as not there, as in exports of tables."""
    value = line.value.get(name)
    return default if value is None else value


def _text(line: Line, name: str) -> str:
    if not isinstance(line.value[name], str):
        raise line.fault(f"{name} must be text")
    return str(line.value[name])


def _tokens(line: Line) -> tuple[int, ...]:
    tokens = line.value["prompt_tokens"]
    if not isinstance(tokens, list) or not all(isinstance(t, int) and t >= 0 for t in tokens):
        raise line.fault("prompt_tokens must be a list of token ids")
    return tuple(tokens)


def _choices(line: Line) -> tuple[str, ...]:
    choices = line.value.get("choices", [])
    if not isinstance(choices, list):
        raise line.fault("choices must be a list")
    return tuple(str(choice) for choice in choices)


def _scorer(line: Line) -> str | None:
    scorer = line.value.get("scorer")
    if scorer is None:
        return None
    if scorer not in SCORERS:
        raise line.fault(f"the scorer {scorer!r} is unknown: use one of {', '.join(SCORERS)}")
    if line.value.get("reference") is None:
        raise line.fault("a scorer needs a reference")
    if scorer == "regex":
        try:
            re.compile(str(line.value["reference"]))
        except re.error as error:
            raise line.fault(f"the reference is no regular expression ({error})") from None
    return str(scorer)
