"""What honest streams feel of a hostile crowd: long bodies, scores, cancelled and slow readers, broken requests.

python -m benchmarks.hostile [--minutes 10] [--engine openvino] [--streams 8]

Alone first, then beside the crowd, in one run. Prints for both: streams, lost ones, the gap between two pieces of text
(p50, p99, longest), and how the crowd was answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from pennyweight import formats, techniques
from pennyweight.deployment import Deployment
from pennyweight.inputs import open_model
from pennyweight.processes import free_port
from pennyweight.techniques.quantize import Quantize

SCHEMES = {"openvino": "Q8_0", "onnxruntime": "INT8", "llamacpp": "Q8_0"}
JSON = {"content-type": "application/json"}
ANSWER = 48  # tokens of an honest stream
Session = aiohttp.ClientSession


class Crowd:
    """Each of its members does one thing again and again."""

    def __init__(self, session: Session, url: str) -> None:
        self.session, self.url = session, url
        self.answers: Counter[str] = Counter()
        self.long = json.dumps(chat("word " * 700_000)).encode()  # once: the honest streams share this process

    async def ask(self, name: str, path: str, body: Any, *, seconds: float = 60.0) -> None:
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            async with self.session.post(self.url + path, data=data, headers=JSON, timeout=timeout) as answer:
                await answer.read()
                self.answers[f"{name} {answer.status}"] += 1
        except (TimeoutError, aiohttp.ClientError) as error:
            self.answers[f"{name} {type(error).__name__}"] += 1

    async def long_body(self) -> None:
        await self.ask("long body", "/v1/chat/completions", self.long)

    async def long_prompt(self) -> None:
        await self.ask("long prompt", "/v1/chat/completions", chat("word " * 1500))

    async def score(self) -> None:
        body = {
            "prompt": [random.randrange(100, 4000) for _ in range(2000)],
            "max_tokens": 0,
            "echo": True,
            "logprobs": 5,
        }
        await self.ask("score", "/v1/completions", body, seconds=random.uniform(5, 60))

    async def cancel(self) -> None:
        await self.ask(
            "cancel", "/v1/chat/completions", chat("Tell a story", 400, stream=True), seconds=random.random()
        )

    async def many(self) -> None:
        await self.ask("n 16", "/v1/completions", {"prompt": "one", "n": 16, "max_tokens": 4})

    async def broken(self) -> None:
        body = random.choice([{"messages": 5}, {"temprature": 1}, {"messages": [{"role": "x"}]}, {"prompt": [10**9]}])
        await self.ask("broken", random.choice(["/v1/completions", "/v1/chat/completions"]), body)
        await asyncio.sleep(0.05)

    async def schema(self) -> None:
        deep: Any = {"type": "string"}
        for _ in range(60):
            deep = {"type": "array", "items": deep}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}
        await self.ask("schema", "/v1/chat/completions", {**chat("x", 20), "response_format": form})

    async def slow_reader(self) -> None:
        try:
            async with self.session.post(
                self.url + "/v1/chat/completions", json=chat("Tell a story", 60, stream=True)
            ) as answer:
                for _ in range(5):
                    await answer.content.read(20)
                    await asyncio.sleep(1)
                self.answers[f"slow reader {answer.status}"] += 1
        except aiohttp.ClientError as error:
            self.answers[f"slow reader {type(error).__name__}"] += 1


def chat(text: str, tokens: int = 8, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}


async def honest(
    session: Session, url: str, until: float, *, firsts: list[float], gaps: list[float], ends: Counter[str]
) -> None:
    while time.monotonic() < until:
        body = chat(random.choice(["Name a colour", "How is the sea?", "Count to ten"]), ANSWER, stream=True)
        last, whole, begun = time.monotonic(), False, False
        try:
            async with session.post(url + "/v1/chat/completions", json=body) as answer:
                async for line in answer.content:
                    if line.startswith(b"data: "):
                        now = time.monotonic()
                        (gaps if begun else firsts).append(now - last)
                        last, begun = now, True
                        whole = whole or line.startswith(b"data: [DONE]")
                ends["whole" if whole else f"lost: {answer.status}"] += 1
        except aiohttp.ClientError as error:
            ends[f"lost: {type(error).__name__}"] += 1


async def again(what: Callable[[], Awaitable[None]], until: float) -> None:
    while time.monotonic() < until:
        await what()


async def measured(url: str, seconds: float, streams: int, *, crowded: bool) -> dict[str, Any]:
    firsts: list[float] = []
    gaps: list[float] = []
    ends: Counter[str] = Counter()
    until = time.monotonic() + seconds
    timeout = aiohttp.ClientTimeout(total=None)
    async with Session(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        crowd = Crowd(session, url)
        members = (
            crowd.long_body,
            crowd.long_prompt,
            crowd.score,
            crowd.cancel,
            crowd.many,
            crowd.broken,
            crowd.schema,
            crowd.slow_reader,
        )
        work = [honest(session, url, until, firsts=firsts, gaps=gaps, ends=ends) for _ in range(streams)]
        await asyncio.gather(*work, *([again(member, until) for member in members] if crowded else []))
    return {
        "crowd": crowded,
        "streams": dict(ends),
        "first_ms": quantiles(firsts),
        "gap_ms": quantiles(gaps),
        "crowd_answers": dict(sorted(crowd.answers.items())),
    }


def quantiles(seconds: list[float]) -> dict[str, int]:
    ordered = sorted(seconds)
    found = {"p50": ordered[len(ordered) // 2], "p99": ordered[int(0.99 * len(ordered))], "longest": ordered[-1]}
    return {name: round(1000 * value) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--engine", default="openvino", choices=sorted(SCHEMES))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--max-num-batched-tokens", type=int, default=0, help="of one step; 0: the engine's default")
    arguments = parser.parse_args()
    model = techniques.apply(Quantize(SCHEMES[arguments.engine]), open_model("demo"))
    port = free_port("127.0.0.1")
    with TemporaryDirectory() as place:
        steps = {"max_num_batched_tokens": arguments.max_num_batched_tokens} if arguments.max_num_batched_tokens else {}
        formats.write_deployment(Path(place), Deployment.of(model, arguments.engine, max_num_seqs=32, **steps))
        command = [sys.executable, "-m", "pennyweight", "serve", place, "--port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            url = f"http://127.0.0.1:{port}"
            try:
                for crowded, minutes in ((False, arguments.minutes / 5), (True, arguments.minutes)):
                    found = asyncio.run(measured(url, 60 * minutes, arguments.streams, crowded=crowded))
                    print(json.dumps({"engine": arguments.engine, **steps, **found}), flush=True)
            finally:
                process.terminate()
                process.wait(90)


if __name__ == "__main__":
    main()
