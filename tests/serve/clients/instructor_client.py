"""instructor in its TOOLS and JSON_SCHEMA modes, in an environment of its own: it wants an older openai than ours.
Prints what it read."""

import json
import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel


class Weather(BaseModel):
    """How the weather is somewhere."""

    place: Literal["north", "south"]


found = {}
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    plain = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
    more = {"parallel_tool_calls": False} if mode is instructor.Mode.TOOLS else {}
    answer = instructor.from_openai(plain, mode=mode).chat.completions.create(
        model="model",
        response_model=Weather,
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=220,
        temperature=0,
        max_retries=1,
        **more,
    )
    found[mode.name] = answer.place
print(json.dumps(found))
