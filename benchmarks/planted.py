"""Planted defects and harmless changes on real engines: does the proof reject the one and accept the other?

python -m benchmarks.planted [--engines openvino transformers ...] [--kinds plain forms sampled]
                            [--sets served harmless weights] [--only NAME ...] [--all-requests] [--set dtype=float32]

Half of the defects break only what is served: a proxy before the engine changes prompts, lengths or answers, and passes
scores through. The others break the weights, which are then served and scored alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.defects import Body, Defect, changed, form_defects, sampling_defects, served_defects, weight_defects
from pennyweight import checkpoint, techniques, traces
from pennyweight.budget import Budget, Outcome
from pennyweight.cli import options
from pennyweight.deployment import Deployment
from pennyweight.evidence import Reference
from pennyweight.inputs import open_model
from pennyweight.measure.proof import proof
from pennyweight.measure.proof.references import references
from pennyweight.model import Model
from pennyweight.serve import Endpoint, open_engine
from pennyweight.techniques.quantize import Quantize
from pennyweight.tokenizer import Tokenizer
from pennyweight.workload import Workload

SCHEMES = {"openvino": "Q8_0", "onnxruntime": "INT8", "llamacpp": "Q8_0", "transformers": "BF16"}
PATIENCE = aiohttp.ClientTimeout(total=1200)


class Proxy:
    """A server before the engine that breaks chat answers and passes everything else. Scores of given text do not
    depend on the defect: `scores` keeps them for the next one."""

    def __init__(self, endpoint: Endpoint, tokenizer: Tokenizer, defect: Defect, scores: dict[str, Body]) -> None:
        self._endpoint, self._tokenizer, self._defect, self._number = endpoint, tokenizer, defect, 0
        self._scores = scores

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        if request.path.endswith("/chat/completions"):
            return web.json_response(await self._chat(body))
        key = json.dumps(body) if body.get("echo") else ""
        if key not in self._scores:
            async with aiohttp.ClientSession(timeout=PATIENCE) as session:
                answer = await self._post(session, request.path, body)
            if not key:
                return web.json_response(answer)
            self._scores[key] = answer
        return web.json_response(self._scores[key])

    async def _chat(self, body: Body) -> Body:
        self._number += 1
        number = self._number
        usual = self._tokenizer.chat(body["messages"])
        asked, prompt = self._defect.asked(body, list(usual))
        wanted = {k: v for k, v in asked.items() if k not in ("messages", "logprobs")}
        if self._defect.direct:
            async with aiohttp.ClientSession(timeout=PATIENCE) as session:
                answer = await self._post(session, "/v1/chat/completions", asked)
            return answer | {"choices": [self._defect.given(choice, number) for choice in answer["choices"]]}
        async with aiohttp.ClientSession(timeout=PATIENCE) as session:
            answer = await self._post(session, "/v1/completions", wanted | {"prompt": prompt, "logprobs": 0})
        choice = answer["choices"][0]
        rows = choice["logprobs"]["token_logprobs"]
        choice |= {
            "message": {"role": "assistant", "content": choice.pop("text")},
            "logprobs": {"content": [{"token": "", "logprob": value, "bytes": []} for value in rows], "refusal": None},
            "prompt_token_ids": list(usual) if self._defect.lies else prompt,
        }
        return answer | {"choices": [self._defect.given(choice, number)]}

    async def _post(self, session: aiohttp.ClientSession, path: str, body: Body) -> Body:
        async with session.post(self._endpoint.base_url + path, json=body) as answer:
            whole: Body = await answer.json()
            return whole


@contextmanager
def behind(endpoint: Endpoint, tokenizer: Tokenizer, defect: Defect, scores: dict[str, Body]) -> Iterator[Endpoint]:
    """The endpoint of a proxy, in a thread with an event loop of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start() -> tuple[web.AppRunner, int]:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/{path:.*}", Proxy(endpoint, tokenizer, defect, scores).handle)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield replace(endpoint, base_url=f"http://127.0.0.1:{port}")
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)


# -- runs --


@dataclass
class Bench:
    """The workload, its references, and where results go."""

    workload: Workload
    held_against: Mapping[str, Reference]
    budget: Budget
    rows: list[Body]
    settings: Mapping[str, Any]  # of every engine under test

    def judge(self, engine: str, name: str, kind: str, endpoint: Endpoint, expected: str = "") -> None:
        found = proof.evaluate(endpoint, self.workload, self.held_against, self.budget)
        parts = found.measurement.conditions["parts"]
        broken = [v.limit.quantity for v in found.verdict.limits if v.outcome is not Outcome.ACCEPT]
        row = {
            "engine": engine,
            "kind": kind,
            "name": name,
            "outcome": found.verdict.outcome,
            "broken": broken,
            "by": sorted({parts.get(quantity, "not measured") for quantity in broken}),
            "expected": expected,
            "values": {n: round(q.value, 4) for n, q in found.measurement.quantities.items()},
        }
        print(json.dumps(row), flush=True)
        self.rows.append(row)


def made_for(engine: str, model: Model) -> Model:
    """In the scheme that this engine is tried with."""
    scheme = SCHEMES[engine]
    return model if scheme == model.scheme else techniques.apply(Quantize(scheme), model)


def deployment(model: Model, engine: str, **settings: Any) -> Deployment:
    more = {"max_model_len": 1024} if engine == "llamacpp" else {}
    return Deployment.of(model, engine, max_num_seqs=32, **more, **settings)


HARMLESS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "openvino": {
        "prefix caching": {"enable_prefix_caching": True},
        "smaller prompt pieces": {"max_num_batched_tokens": 64},
        "32-bit cache": {"kv_cache_dtype": "f32"},
    },
    "onnxruntime": {"prefix caching": {"enable_prefix_caching": True}},
    "transformers": {"prefix caching": {"enable_prefix_caching": True}, "one thread": {"num_threads": 1}},
    "llamacpp": {"prefix caching": {"enable_prefix_caching": True}},
}


SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "maxLength": 40},
        "polite": {"type": "boolean"},
        "words": {"type": "integer", "minimum": 1, "maximum": 500},
    },
    "required": ["topic", "polite", "words"],
    "additionalProperties": False,
}


def with_fields(workload: Workload, kind: str) -> Workload:
    """The same requests, asking for a JSON document or for sampled answers."""
    form = {"type": "json_schema", "json_schema": {"name": "note", "schema": SCHEMA}}
    fields: Body = {"response_format": form} if kind == "forms" else {"temperature": 0.9}
    return Workload(kind, tuple(replace(r, fields={**r.fields, **fields}) for r in workload.requests))


def run_fields(bench: Bench, made: Model, engine: str, defects: Mapping[str, Defect]) -> None:
    """Defects of what a request's fields ask for, and the deployment without one."""
    tokenizer = Tokenizer(made.path)
    scores: dict[str, Body] = {}
    with open_engine(deployment(made, engine, **bench.settings)) as endpoint:
        for name, defect in {f"as chosen, {bench.workload.name}": Defect("", direct=True), **defects}.items():
            kind = "defect" if defect.part else "harmless"
            with behind(endpoint, tokenizer, defect, scores) as broken:
                bench.judge(engine, name, kind, broken, defect.part)


def run(bench: Bench, model: Model, engine: str, only: set[str], sets: set[str]) -> None:
    def wanted(name: str, kind: str) -> bool:
        return kind in sets and (not only or name in only)

    made = made_for(engine, model)
    tokenizer = Tokenizer(model.path)
    scores: dict[str, Body] = {}
    with open_engine(deployment(made, engine, **bench.settings)) as endpoint:
        if wanted("as chosen", "harmless"):
            with behind(endpoint, tokenizer, Defect(""), scores) as whole:
                bench.judge(engine, "as chosen", "harmless", whole)
        for name, defect in served_defects(tokenizer).items():
            if wanted(name, "served"):
                with behind(endpoint, tokenizer, defect, scores) as broken:
                    bench.judge(engine, name, "defect", broken, defect.part)
    for name, settings in HARMLESS[engine].items():
        if wanted(name, "harmless"):
            with open_engine(deployment(made, engine, **{**bench.settings, **settings})) as endpoint:
                bench.judge(engine, name, "harmless", endpoint)
    for name, change in weight_defects().items():
        if wanted(name, "weights"):
            with tempfile.TemporaryDirectory() as folder:
                broken_model = checkpoint.open_model(str(changed(model, change, Path(folder) / "model")))
                with open_engine(deployment(made_for(engine, broken_model), engine, **bench.settings)) as endpoint:
                    bench.judge(engine, name, "defect", endpoint, "weights")


def summary(engine: str, rows: Sequence[Body]) -> Body:
    """How many of the defects were rejected, and by the part that should; how many harmless changes were not
    accepted."""
    mine = [row for row in rows if row["engine"] == engine]
    defects, harmless = ([row for row in mine if row["kind"] == kind] for kind in ("defect", "harmless"))
    rejected = [row for row in defects if row["outcome"] == Outcome.REJECT]
    return {
        "engine": engine,
        "defects": len(defects),
        "rejected": len(rejected),
        "by the part that should": sum(any(row["expected"] in part for part in row["by"]) for row in rejected),
        "accepted": [row["name"] for row in defects if row["outcome"] == Outcome.ACCEPT],
        "harmless": len(harmless),
        "harmless rejected": [row["name"] for row in harmless if row["outcome"] == Outcome.REJECT],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["openvino", "onnxruntime", "transformers", "llamacpp"])
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--kinds", nargs="+", default=["plain", "forms", "sampled"], help="which of these workloads")
    parser.add_argument("--sets", nargs="+", default=["served", "harmless", "weights"], help="of the plain workload")
    parser.add_argument("--all-requests", action="store_true", help="of the workload, instead of its held-out half")
    parser.add_argument("--tokens", type=int, default=48, help="longest answer")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the engines")
    arguments = parser.parse_args()
    settings = options.settings(arguments.set)
    model = open_model("demo")
    chat = traces.load("chat")
    judged = chat if arguments.all_requests else chat.split()[1]
    shorter = tuple(replace(r, max_tokens=min(arguments.tokens, r.max_tokens)) for r in judged.requests)
    workload = Workload(judged.name, shorter)
    kinds: dict[str, Mapping[str, Defect]] = {"forms": form_defects(), "sampled": sampling_defects()}
    workloads = {"plain": workload, **{kind: with_fields(workload, kind) for kind in kinds}}
    benches: dict[str, Bench] = {}
    rows: list[Body] = []
    with open_engine(deployment(model, "transformers")) as endpoint:
        for kind in arguments.kinds:
            found = references(endpoint, workloads[kind].requests)
            benches[kind] = Bench(workloads[kind], {r.request_id: r for r in found}, Budget(), rows, settings)
    for engine in arguments.engines:
        for kind, bench in benches.items():
            if kind == "plain":
                run(bench, model, engine, set(arguments.only), set(arguments.sets))
            else:
                run_fields(bench, made_for(engine, model), engine, kinds[kind])
        print(json.dumps(summary(engine, rows)), flush=True)


if __name__ == "__main__":
    main()
