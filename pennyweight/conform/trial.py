"""One engine, one tiny model: is what it scores and generates what stock transformers says?"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pennyweight.conform.tiny import TOKENS, Truth
from pennyweight.engines.base import Backend, Engine, Runtime
from pennyweight.errors import EngineError, PennyweightError
from pennyweight.generation import Event, Generation, Score, joined_score
from pennyweight.processes import free_port
from pennyweight.serve import process
from pennyweight.serve.launchers.local import HOST, watched
from pennyweight.worker.driver import last_line

Result = Literal["right", "wrong", "failed", "refused"]
MOST_SCORED = 0.05  # nats: what 16-bit arithmetic changes of a log-probability here
MOST_NOISE = 1.5  # times what 16 bits change in transformers itself, where routing between experts is nearly tied
MOST_QUANTIZED = 0.06  # nats on average: what 8-bit weights change; known faults change 0.09 or more
NAME = "tiny"
START_SECONDS = 180.0
ERROR = re.compile(r"(?:^|[\])] )([A-Z]\w*(?:Error|Exception): \S.*)")  # as Python ends a traceback, logged or not
NEAR_TIE, QUANTIZED_TIE = 0.1, 0.3  # nats: another token that the reference holds for almost as likely is no fault


@dataclass(frozen=True)
class Outcome:
    result: Result
    evidence: str


def tried(engine: Engine, directory: Path, truths: Sequence[Truth], *, quantized: bool = False) -> Outcome:
    """Load the model in this process and ask it: each prompt scored and generated alone, then all together."""
    try:
        subject = _subject(engine, directory)
    except Exception as error:  # whatever an engine raises, it did not load this model
        return Outcome("refused", _line(error))
    try:
        return _compared(subject, truths, quantized=quantized)
    except PennyweightError as error:
        return Outcome("refused", _line(error))
    except Exception as error:  # it loaded and then failed
        return Outcome("failed", _line(error))
    finally:
        subject.close()


def _subject(engine: Engine, directory: Path) -> Subject:
    port = free_port(HOST)
    launch = engine.launch(directory, HOST, port, [NAME])
    if launch is not None:
        return OpenAIServer(
            process.launch(
                engine.name,
                watched(launch).arguments,
                log=directory.parent / "log.txt",
                host=HOST,
                port=port,
                environment=launch.environment,
            )
        )
    backend = engine.backend(directory)
    return _Server(backend) if backend is not None else _Library(engine.load(directory))


def _compared(subject: Subject, truths: Sequence[Truth], *, quantized: bool) -> Outcome:
    differences = [_differences(subject, truth) for truth in truths]
    each = [difference for row in differences for difference in row]
    worst, mean = max(each), sum(each) / len(each)
    seen = f"scores differ by {mean:.2f} nats on average" if quantized else f"scores differ by up to {worst:.2f} nats"
    excess = [max(row) - max(MOST_SCORED, MOST_NOISE * t.noise) for row, t in zip(differences, truths, strict=True)]
    if not (mean <= MOST_QUANTIZED if quantized else max(excess) <= 0):  # so that NaN is wrong
        return Outcome("wrong", seen)
    alone = [subject.generate([truth])[0] for truth in truths]
    beside = subject.generate(truths)
    for how, answers in (("alone", alone), ("beside others", beside)):
        for truth, answer in zip(truths, answers, strict=True):
            same = agreed(truth, answer, QUANTIZED_TIE if quantized else NEAR_TIE)
            if same < TOKENS:
                return Outcome("wrong", f"{same} of {TOKENS} greedy tokens {how}, prompt of {len(truth.prompt)}")
    return Outcome("right", f"{mean:.4f} nats on average" if quantized else f"scores within {worst:.4f} nats")


def _differences(subject: Subject, truth: Truth) -> list[float]:
    """Nats between the engine's log-probability of each token of the answer and the reference's."""
    score = subject.score([*truth.prompt, *truth.answer], len(truth.prompt))
    own = [row[token] for row, token in zip(truth.logprobs, truth.answer, strict=True)]
    return [abs(a - b) for a, b in zip(score.logprobs, own, strict=True)]


def agreed(truth: Truth, answer: Sequence[int], tie: float) -> int:
    """Leading tokens that are the reference's; all of them where the first other one is within `tie` nats of it."""
    for place, want in enumerate(truth.answer):
        if place >= len(answer):
            return place
        if answer[place] != want:
            row = truth.logprobs[place]
            return TOKENS if row[want] - row[answer[place]] < tie else place
    return TOKENS


class Subject:
    """Something that scores and generates."""

    def score(self, tokens: list[int], start: int) -> Score:
        raise NotImplementedError

    def generate(self, truths: Sequence[Truth]) -> list[list[int]]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def _asked(truths: Sequence[Truth]) -> list[Generation]:
    return [Generation(f"{n}-{len(truths)}", truth.prompt, TOKENS) for n, truth in enumerate(truths)]


class _Library(Subject):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def score(self, tokens: list[int], start: int) -> Score:
        return joined_score(self._runtime.score(tokens, start))

    def generate(self, truths: Sequence[Truth]) -> list[list[int]]:
        asked = _asked(truths)
        for generation in asked:
            self._runtime.submit(generation)
        found: dict[str, list[int]] = {generation.id: [] for generation in asked}
        left = set(found)
        while left:
            for event in self._runtime.step():
                found[event.id].extend(event.tokens)
                if event.finish in ("error", "refused"):
                    raise RuntimeError(event.error or event.finish)
                if event.finish:
                    left.discard(event.id)
        return list(found.values())

    def close(self) -> None:
        self._runtime.close()


class _Server(Subject):
    """A backend that lives in another process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._loop = asyncio.new_event_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop.run_until_complete(backend.start(self._events.put_nowait, self._ended))

    def _ended(self, message: str) -> None:
        self._events.put_nowait(Event("", finish="error", error=message))

    def score(self, tokens: list[int], start: int) -> Score:
        return self._loop.run_until_complete(self._backend.score(tokens, start))

    def generate(self, truths: Sequence[Truth]) -> list[list[int]]:
        return self._loop.run_until_complete(self._generated(_asked(truths)))

    async def _generated(self, asked: Sequence[Generation]) -> list[list[int]]:
        for generation in asked:
            self._backend.submit(generation)
        found: dict[str, list[int]] = {generation.id: [] for generation in asked}
        left = set(found)
        while left:
            event = await asyncio.wait_for(self._events.get(), 60)
            if event.finish in ("error", "refused"):
                raise RuntimeError(event.error or event.finish)
            found[event.id].extend(event.tokens)
            if event.finish:
                left.discard(event.id)
        return list(found.values())

    def close(self) -> None:
        self._loop.run_until_complete(self._backend.close())
        self._loop.close()


class OpenAIServer(Subject):
    """A server with the OpenAI API of its own, and vLLM's fields for token ids."""

    def __init__(self, server: process.ServerProcess) -> None:
        self._server = server
        try:
            server.wait_healthy(START_SECONDS)
        except EngineError as error:
            raise EngineError(self._cause() or str(error)) from None
        finally:
            if not server.alive:
                server.stop()  # what it started may live on

    def score(self, tokens: list[int], start: int) -> Score:
        choice = self._completed({"prompt": tokens, "max_tokens": 1, "prompt_logprobs": 0})
        rows = choice["prompt_logprobs"][start:]
        return Score([row[str(token)]["logprob"] for row, token in zip(rows, tokens[start:], strict=True)], [])

    def generate(self, truths: Sequence[Truth]) -> list[list[int]]:
        more = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        with ThreadPoolExecutor(len(truths)) as pool:
            choices = pool.map(lambda truth: self._completed({"prompt": truth.prompt, **more}), truths)
            return [list(choice["token_ids"]) for choice in choices]

    def _completed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        data = json.dumps({"model": NAME, **body}).encode()
        address = f"{self._server.base_url}/v1/completions"
        asked = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        try:
            with process.LOCAL.open(asked, timeout=60) as answer:
                return dict(json.load(answer)["choices"][0])
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise RuntimeError((error.code >= 500 and self._cause()) or said) from None

    def _cause(self) -> str:
        """The last error of the log that is no consequence of another one; empty where there is none."""
        lines = self._server.log.read_text(errors="replace").splitlines()
        found = [match.group(1) for match in map(ERROR.search, lines) if match]
        causes = [one for one in found if "initialization failed" not in one and "EngineDeadError" not in one]
        return causes[-1] if causes else ""

    def close(self) -> None:
        self._server.stop()


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {last_line(error)}"[:300]
