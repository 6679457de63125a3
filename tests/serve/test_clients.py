"""Client libraries against a real engine: what they send is answered in the form that they read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from pennyweight import checkpoint
from pennyweight.deployment import Deployment
from pennyweight.serve import Endpoint, open_engine

pytestmark = pytest.mark.slow


class Weather(BaseModel):
    """How the weather is somewhere."""

    place: Literal["north", "south"]


TOOL = {"name": "weather", "description": "How it is", "parameters": Weather.model_json_schema()}


@pytest.fixture(scope="module")
def endpoint(tiny_checkpoint: Path) -> Iterator[Endpoint]:
    model = checkpoint.open_model(str(tiny_checkpoint))
    with open_engine(Deployment("transformers", str(model.path), model.id, model.scheme, {"max_num_seqs": 4})) as made:
        yield made


def test_openais_client_reads_calls_and_their_streamed_arguments(endpoint: Endpoint) -> None:
    client = openai.OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", max_retries=0)
    asked: dict[str, Any] = {
        "model": "model",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": "required",
        "parallel_tool_calls": False,  # a random model would go on calling until it is cut
        "temperature": 0,
        "max_tokens": 220,
    }
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    whole = client.chat.completions.create(**asked).choices[0].message.tool_calls
    assert streamed and [c.function.arguments for c in streamed] == [c.function.arguments for c in whole]
    assert all(Weather.model_validate_json(call.function.arguments) for call in whole)
    assert len(whole) == 1
    result = {"role": "tool", "tool_call_id": whole[0].id, "content": "wet"}
    said = {"role": "assistant", "content": None, "tool_calls": [whole[0].model_dump()]}
    more = asked | {"messages": [*asked["messages"], said, result], "tool_choice": "none", "max_tokens": 4}
    assert client.chat.completions.create(**more).choices[0].message.content is not None


def test_langchain_binds_tools(endpoint: Endpoint) -> None:
    from langchain_openai import ChatOpenAI, OpenAI

    more: dict[str, Any] = {
        "base_url": f"{endpoint.base_url}/v1",
        "api_key": "none",
        "model": "model",
        "max_retries": 0,
    }
    bound = ChatOpenAI(**more, max_tokens=220, temperature=0).bind_tools([Weather], tool_choice="Weather")
    [call] = bound.invoke("hi").tool_calls
    assert call["name"] == "Weather" and call["args"]["place"] in ("north", "south")
    assert OpenAI(**more, max_tokens=4).batch(["one", "two"])  # sends its prompts as a list


def test_pydantic_ai_gets_its_output(endpoint: Endpoint) -> None:
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent, ToolOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{endpoint.base_url}/v1", api_key="none")
    settings: Any = {"max_tokens": 220, "temperature": 0, "parallel_tool_calls": False}
    agent = Agent(OpenAIChatModel("model", provider=provider), output_type=ToolOutput(Weather), model_settings=settings)
    assert agent.run_sync("hi").output.place in ("north", "south")


TASK = """
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
doc_to_text: "{{question}}"
"""
CHOICE = (
    TASK
    + """
task: local_choice
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
)
GENERATED = (
    TASK
    + """
task: local_generate
output_type: generate_until
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["and"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""
)


def test_lm_eval_measures_what_it_measures_on_transformers(
    endpoint: Endpoint, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    rows = [{"question": f"Number {n} is", "choices": [" even", " odd"], "answer": n % 2} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in {"choice": CHOICE, "generate": GENERATED}.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(tmp_path / "rows.jsonl")))
    common: dict[str, Any] = {
        "task_manager": TaskManager(include_path=str(tmp_path), include_defaults=False),
        "bootstrap_iters": 0,
        "log_samples": True,
    }
    tasks = ["local_choice", "local_generate"]
    server = {"model": "model", "num_concurrent": 2, "max_retries": 1}
    ours = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={**server, "base_url": f"{endpoint.base_url}/v1/completions", "tokenizer": str(tiny_checkpoint)},
        tasks=tasks,
        **common,
    )
    stock = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny_checkpoint), "dtype": "float32"},
        tasks=tasks,
        device="cpu",
        **common,
    )
    for mine, true in zip(ours["samples"]["local_choice"], stock["samples"]["local_choice"], strict=True):
        for (one,), (other,) in zip(mine["resps"], true["resps"], strict=True):
            assert one[0] == pytest.approx(other[0], abs=2e-3) and one[1] == other[1]
    for mine, true in zip(ours["samples"]["local_generate"], stock["samples"]["local_generate"], strict=True):
        cut = "\N{REPLACEMENT CHARACTER}"  # an answer that is cut inside a character ends before it here
        assert mine["resps"] == [[text.rstrip(cut) for text in texts] for texts in true["resps"]]
    chat = lm_eval.simple_evaluate(
        model="local-chat-completions",
        model_args={**server, "base_url": f"{endpoint.base_url}/v1/chat/completions"},
        tasks=["local_generate"],
        apply_chat_template=True,
        **common,
    )
    assert all(sample["resps"][0][0] for sample in chat["samples"]["local_generate"])
