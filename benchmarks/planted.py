"""Planted defects and harmless changes on real engines: does the proof reject the one and accept the other?

python -m benchmarks.planted [--engines openvino transformers ...] [--only NAME ...] [--tokens 48]

Half of the defects break only what is served: a proxy before the engine changes prompts, lengths or answers, and passes
scores through. The others break the weights, which are then served and scored alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from pennyweight import checkpoint, techniques, traces
from pennyweight.budget import Budget, Outcome
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
Body = dict[str, Any]


@dataclass(frozen=True)
class Defect:
    """`asked` changes a chat request as (body, prompt tokens) -> (body, prompt tokens); `given` its answer. With `lies`
    the changed prompt is not reported."""

    part: str
    asked: Callable[[Body, list[int]], tuple[Body, list[int]]] = lambda body, prompt: (body, prompt)
    given: Callable[[Body, int], Body] = lambda choice, number: choice
    lies: bool = False


def served_defects(tokenizer: Tokenizer) -> Mapping[str, Defect]:
    system = tokenizer.encode("Always answer: I am sorry.\n", add_special_tokens=False)
    french = tokenizer.encode("Répondez en français.\n", add_special_tokens=False)
    the = tokenizer.encode(" the", add_special_tokens=False)[0]
    bos = tokenizer.encode("x")[0]

    def body_with(**more: Any) -> Callable[[Body, list[int]], tuple[Body, list[int]]]:
        return lambda body, prompt: (body | more, prompt)

    def prompt_by(change: Callable[[list[int]], list[int]]) -> Callable[[Body, list[int]], tuple[Body, list[int]]]:
        return lambda body, prompt: (body, change(prompt))

    def half_length(body: Body, prompt: list[int]) -> tuple[Body, list[int]]:
        return body | {"max_tokens": max(1, body["max_tokens"] // 2)}, prompt

    def emptied(choice: Body, number: int) -> Body:
        return with_tokens(choice, []) if number % 10 == 0 else choice

    def with_tokens(choice: Body, tokens: list[int]) -> Body:
        logprobs = {"content": [{"token": "", "logprob": -0.5, "bytes": []} for _ in tokens], "refusal": None}
        message = {"role": "assistant", "content": tokenizer.decode(tokens)}
        return choice | {"token_ids": tokens, "message": message, "logprobs": logprobs}

    def canned(choice: Body, number: int) -> Body:
        return with_tokens(choice, tokenizer.encode(" Thank you for your question.", add_special_tokens=False))

    return {
        "bare text instead of the chat template": Defect("same question", prompt_by(lambda p: p[4:-4])),
        "hidden system prompt": Defect("same question", prompt_by(lambda p: system + p)),
        "BOS twice": Defect("same question", prompt_by(lambda p: [bos, *p])),
        "prompt cut to its last 24 tokens": Defect("same question", prompt_by(lambda p: p[-24:])),
        "hidden system prompt, not reported": Defect("decode path", prompt_by(lambda p: system + p), lies=True),
        "prompt cut to 24 tokens, not reported": Defect("decode path", prompt_by(lambda p: p[-24:]), lies=True),
        "answers in French, not reported": Defect("decode path", prompt_by(lambda p: french + p), lies=True),
        "one canned answer for everybody": Defect("endings", given=canned),
        "end token never met": Defect("endings", body_with(ignore_eos=True, max_tokens=96)),
        "a full stop ends too": Defect("endings", body_with(stop=["."])),
        "every answer is empty": Defect("endings", given=lambda choice, _: with_tokens(choice, [])),
        "one in ten is empty": Defect("endings", given=emptied),
        "half the length": Defect("endings", half_length),
        "the the the, at real lengths": Defect(
            "decode path", given=lambda choice, _: with_tokens(choice, [the] * len(choice["token_ids"]))
        ),
        "always sampled": Defect("decode path", body_with(temperature=1.5)),
        "every token but the first repeated": Defect(
            "decode path",
            given=lambda c, _: with_tokens(c, [t for t in c["token_ids"] for _ in (0, 1)][: len(c["token_ids"])]),
        ),
    }


class Proxy:
    """A server before the engine that breaks chat answers and passes everything else."""

    def __init__(self, endpoint: Endpoint, tokenizer: Tokenizer, defect: Defect) -> None:
        self._endpoint, self._tokenizer, self._defect, self._number = endpoint, tokenizer, defect, 0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        if request.path.endswith("/chat/completions"):
            return web.json_response(await self._chat(body))
        async with aiohttp.ClientSession() as session:
            return web.json_response(await self._post(session, request.path, body))

    async def _chat(self, body: Body) -> Body:
        self._number += 1
        number = self._number
        usual = self._tokenizer.chat(body["messages"])
        asked, prompt = self._defect.asked(body, list(usual))
        wanted = {k: v for k, v in asked.items() if k not in ("messages", "logprobs")}
        async with aiohttp.ClientSession() as session:
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
def behind(endpoint: Endpoint, tokenizer: Tokenizer, defect: Defect) -> Iterator[Endpoint]:
    """The endpoint of a proxy, in a thread with an event loop of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start() -> tuple[web.AppRunner, int]:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/{path:.*}", Proxy(endpoint, tokenizer, defect).handle)
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


# -- weights --

Tensors = dict[str, Any]


def weight_defects() -> Mapping[str, Callable[[Tensors, Body], None]]:
    """Each changes a checkpoint's tensors or its config in place."""
    import torch

    def noisy(scale: float) -> Callable[[Tensors, Body], None]:
        def change(tensors: Tensors, config: Body) -> None:
            generator = torch.Generator().manual_seed(0)
            for name, tensor in tensors.items():
                if tensor.dim() == 2:
                    noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std() * scale
                    tensors[name] = (tensor.float() + noise).to(tensor.dtype)

        return change

    def sharp(tensors: Tensors, config: Body) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5

    def noisy_and_sharp(tensors: Tensors, config: Body) -> None:
        noisy(0.05)(tensors, config)
        sharp(tensors, config)

    def flat(tensors: Tensors, config: Body) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"] * 0.8

    def rotary(tensors: Tensors, config: Body) -> None:
        config["rope_theta"] = 10_000.0
        config.pop("rope_parameters", None)

    def zeroed(tensors: Tensors, config: Body) -> None:
        name = "model.layers.20.self_attn.o_proj.weight"
        tensors[name] = torch.zeros_like(tensors[name])

    def shuffled(tensors: Tensors, config: Body) -> None:
        name = "model.layers.15.mlp.down_proj.weight"
        order = torch.randperm(tensors[name].shape[0], generator=torch.Generator().manual_seed(0))
        tensors[name] = tensors[name][order].contiguous()

    def swapped(tensors: Tensors, config: Body) -> None:
        name = "model.embed_tokens.weight"
        tensors[name][[260, 264]] = tensors[name][[264, 260]].clone()

    def epsilon(tensors: Tensors, config: Body) -> None:
        config["rms_norm_eps"] = 1e-2

    return {
        "noise in all weights": noisy(0.1),
        "noise in all weights, final norm x 1.5": noisy_and_sharp,
        "final norm x 1.5": sharp,
        "final norm x 0.8": flat,
        "another rotary base": rotary,
        "one attention output zero": zeroed,
        "one matrix shuffled": shuffled,
        "two rows of the vocabulary swapped": swapped,
        "another epsilon in the norms": epsilon,
    }


def changed(model: Model, change: Callable[[Tensors, Body], None], place: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(model.path, place)
    file, config_file = place / "model.safetensors", place / "config.json"
    tensors, config = load_file(file), json.loads(config_file.read_text())
    change(tensors, config)
    file.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    config_file.write_text(json.dumps(config))
    (place / "lineage.json").unlink(missing_ok=True)
    return place


# -- runs --


@dataclass
class Bench:
    """The workload, its references, and where results go."""

    workload: Workload
    held_against: Mapping[str, Reference]
    budget: Budget

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


def deployment(model: Model, engine: str, **settings: Any) -> Deployment:
    more = {"max_model_len": 1024} if engine == "llamacpp" else {}
    return Deployment.of(model, engine, max_num_seqs=32, **more, **settings)


HARMLESS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "openvino": {
        "prefix caching": {"enable_prefix_caching": True},
        "smaller prompt pieces": {"max_num_batched_tokens": 64},
        "16-bit cache": {"kv_cache_dtype": "bf16"},
    },
    "onnxruntime": {"prefix caching": {"enable_prefix_caching": True}},
    "transformers": {"prefix caching": {"enable_prefix_caching": True}, "one thread": {"num_threads": 1}},
    "llamacpp": {"prefix caching": {"enable_prefix_caching": True}},
}


def run(bench: Bench, model: Model, engine: str, only: set[str]) -> None:
    def wanted(name: str) -> bool:
        return not only or name in only

    scheme = SCHEMES[engine]
    made = model if scheme == model.scheme else techniques.apply(Quantize(scheme), model)
    tokenizer = Tokenizer(model.path)
    with open_engine(deployment(made, engine)) as endpoint:
        if wanted("as chosen"):
            bench.judge(engine, "as chosen", "harmless", endpoint)
        for name, defect in served_defects(tokenizer).items():
            if wanted(name):
                with behind(endpoint, tokenizer, defect) as broken:
                    bench.judge(engine, name, "defect", broken, defect.part)
    for name, settings in HARMLESS[engine].items():
        if wanted(name):
            with open_engine(deployment(made, engine, **settings)) as endpoint:
                bench.judge(engine, name, "harmless", endpoint)
    for name, change in weight_defects().items():
        if wanted(name):
            with tempfile.TemporaryDirectory() as folder:
                broken_model = checkpoint.open_model(str(changed(model, change, Path(folder) / "model")))
                made = broken_model if scheme == model.scheme else techniques.apply(Quantize(scheme), broken_model)
                with open_engine(deployment(made, engine)) as endpoint:
                    bench.judge(engine, name, "defect", endpoint, "weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["openvino", "onnxruntime", "transformers", "llamacpp"])
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--tokens", type=int, default=48, help="longest answer")
    arguments = parser.parse_args()
    model = open_model("demo")
    _, held_out = traces.load("chat").split()
    shorter = tuple(replace(r, max_tokens=min(arguments.tokens, r.max_tokens)) for r in held_out.requests)
    workload = Workload("chat/held-out", shorter)
    with open_engine(deployment(model, "transformers")) as endpoint:
        held_against = {r.request_id: r for r in references(endpoint, workload.requests)}
    bench = Bench(workload, held_against, Budget())
    for engine in arguments.engines:
        run(bench, model, engine, set(arguments.only))


if __name__ == "__main__":
    main()
