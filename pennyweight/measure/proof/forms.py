"""Does an answer keep the form that its request asks for: a JSON schema, JSON, or a call of one of its tools?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pennyweight.measure.proof.asking import Answered
from pennyweight.mixing.agreement import asks_json
from pennyweight.workload import Request


def demands_form(request: Request) -> bool:
    """Must its answer have a form: JSON, a schema, or a call? A request that only offers tools demands none."""
    fields = request.fields
    if fields.get("tools") and fields.get("tool_choice") not in (None, "auto", "none"):
        return True
    return asks_json(fields)


def keeps_form(request: Request, answered: Answered) -> bool:
    """True for a request without a form."""
    wanted = request.fields
    calls = answered.message.get("tool_calls") or []
    if wanted.get("tools") and (calls or wanted.get("tool_choice") not in (None, "auto", "none")):
        return bool(calls) and all(_is_call(call, wanted["tools"]) for call in calls)
    if asks_json(wanted):
        schema = (wanted["response_format"].get("json_schema") or {}).get("schema", {"type": "object"})
        return _follows(answered.text, schema)
    return True


def _is_call(call: Mapping[str, Any], tools: list[Mapping[str, Any]]) -> bool:
    known = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    function = call.get("function") or {}
    return function.get("name") in known and _follows(function.get("arguments") or "", known[function["name"]])


def _follows(text: str, schema: Mapping[str, Any]) -> bool:
    import jsonschema
    import referencing
    import referencing.exceptions
    from jsonschema.validators import validator_for

    kind = validator_for(schema)
    try:
        kind.check_schema(dict(schema))
        kind(dict(schema), registry=referencing.Registry()).validate(json.loads(text))  # fetches no other document
    except (ValueError, jsonschema.ValidationError):
        return False
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable):
        return True  # nobody can follow a schema that is none
    return True
