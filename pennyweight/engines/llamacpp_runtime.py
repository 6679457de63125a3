"""A running `llama-server` behind the protocol of runtimes: requests go to its native /completion over a socket file.

It has no `echo`: a text is scored by a grammar that allows its tokens only, one after the other, while the server tells
each one's log-probability before the grammar. It sends nothing while a character is incomplete and then names
its last token only, so the others are found again from its bytes, and their log-probabilities by asking for the whole
vocabulary at that place.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from pennyweight.engines import Event, Generation, Score
from pennyweight.engines.process import end_with_parent
from pennyweight.engines.sampling import derived_seed
from pennyweight.errors import EngineError
from pennyweight.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pennyweight.engines.llamacpp import LlamaCpp

WAIT = 0.005  # seconds that a step waits for news before it looks for other messages
START_SECONDS = 600.0
MOST_LOST = 4  # tokens of one character
UNGUESSED = {"speculative.type": "none", "speculative.n_max": 0}
Chunk = dict[str, Any]


class LlamaServer:
    def __init__(self, directory: Path, settings: LlamaCpp) -> None:
        file = directory / "model.gguf"
        config = json.loads((directory / "config.json").read_text())
        settings.refuse_memory(config, file.stat().st_size)
        self._tokenizer = Tokenizer(directory)
        self._by_bytes = {piece: token for token, piece in self._tokenizer.byte_pieces.items()}
        added = self._tokenizer.backend.get_added_tokens_decoder().items()
        self._broken = {token for token, piece in self._tokenizer.byte_pieces.items() if not _is_text(piece)}
        self._unforced = self._broken | {number for number, token in added if token.special}
        self._settings = settings
        self._place = Path(tempfile.mkdtemp(prefix="pennyweight-llama-"))
        self._socket = self._place / "server.sock"
        program = settings.program()
        assert program is not None
        command = [program, *settings.arguments(file, config), "--host", str(self._socket)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._tasks: dict[str, Future[None]] = {}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="llama-server", daemon=True).start()
        self._session = self._run(self._open()).result()
        try:
            self._run(self._ready()).result()
        except BaseException:
            self.close()
            raise

    def submit(self, generation: Generation) -> None:
        self._tasks[generation.id] = self._run(self._generate(generation))

    def step(self) -> list[Event]:
        try:
            events = [self._events.get(timeout=WAIT)]
        except queue.Empty:
            if self._process.poll() is not None:
                raise EngineError(f"llama-server ended with exit code {self._process.returncode}") from None
            return []
        while not self._events.empty():
            events.append(self._events.get())
        for event in events:
            if event.finish:
                self._tasks.pop(event.id, None)
        return events

    def cancel(self, generation_id: str) -> None:
        task = self._tasks.pop(generation_id, None)
        if task is not None:
            task.cancel()

    def score(self, tokens: Sequence[int], start: int) -> Future[Score]:
        return self._run(self._score(list(tokens), start))

    def close(self) -> None:
        self._run(self._session.close()).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        shutil.rmtree(self._place, ignore_errors=True)

    # -- in the thread that talks to the server --

    def _run(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self._socket), limit=0, force_close=True)  # it drops idle ones itself
        return aiohttp.ClientSession("http://llama", connector=connector, timeout=aiohttp.ClientTimeout(total=None))

    async def _ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise EngineError(f"llama-server ended with exit code {self._process.returncode} while it loaded")
            try:
                async with self._session.get("/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
        raise EngineError(f"llama-server did not get ready within {START_SECONDS:.0f} s")

    async def _generate(self, generation: Generation) -> None:
        wants = generation.top_logprobs is not None
        body = {
            "prompt": list(generation.prompt), "n_predict": generation.max_tokens, **_sampling(generation),
            "cache_prompt": self._settings.enable_prefix_caching, "ignore_eos": not generation.stop_tokens,
        }  # fmt: skip
        if wants:
            body |= {"n_probs": max(1, generation.top_logprobs or 0)}
        if wants or not self._settings.guesses_with(len(self._tasks) - 1):
            body |= UNGUESSED
        told = 0
        answer: list[int] = []
        try:
            async for chunk in self._stream(body):
                tokens = await self._tokens(chunk, [*generation.prompt, *answer], told)
                told = chunk["tokens_predicted"]
                finish = _finish(chunk)
                ended = next((n for n, token in enumerate(tokens) if token in generation.stop_tokens), None)
                if ended is not None:
                    tokens, finish = tokens[:ended], "stop"
                if not tokens and not finish:
                    continue
                logprobs: list[float] = [0.0] * len(tokens)
                alternatives: list[list[tuple[int, float]]] = []
                if wants:
                    logprobs, alternatives = await self._told(chunk, [*generation.prompt, *answer], tokens)
                answer += tokens
                self._events.put(Event(generation.id, tokens, logprobs, alternatives, finish))
                if finish:
                    return
            raise EngineError("llama-server closed the answer early")
        except (EngineError, aiohttp.ClientError, OSError) as error:
            self._events.put(Event(generation.id, finish="error", error=str(error) or type(error).__name__))

    async def _stream(self, body: Chunk) -> AsyncIterator[Chunk]:
        body = {**body, "stream": True, "return_tokens": True}
        async with self._session.post("/completion", json=body) as answer:
            if answer.status != 200:
                raise EngineError(_fault(await answer.text()))
            async for line in answer.content:
                if line.startswith(b"data: "):
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        raise EngineError(_fault(json.dumps(chunk)))
                    yield chunk
                elif line.startswith(b"error: "):
                    raise EngineError(_fault(line[7:].decode()))

    async def _tokens(self, chunk: Chunk, before: Sequence[int], told: int) -> list[int]:
        """All tokens since `told` of them; the server names the last one only."""
        named = list(chunk.get("tokens") or [])
        lost = chunk["tokens_predicted"] - told - len(named)
        if not named or lost <= 0:
            return named
        spelled = self._spelled(chunk["content"], lost, named[-1])
        return spelled or [*await self._likeliest(before, lost), *named]

    def _spelled(self, text: str, lost: int, last: int) -> list[int] | None:
        """The tokens whose bytes make up this text, the last one known; None where no character came of them."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        if len(encoded) == lost + 1 and encoded[-1] == last:
            return encoded
        whole, end = text.encode(), self._tokenizer.byte_pieces.get(last, b"")
        if lost > MOST_LOST or not whole.endswith(end):
            return None
        for cuts in _splits(whole[: len(whole) - len(end)], lost):
            if all(part in self._by_bytes for part in cuts):
                return [*(self._by_bytes[part] for part in cuts), last]
        return None

    async def _likeliest(self, before: Sequence[int], lost: int) -> list[int]:
        """Bytes that are no character leave no trace in the text: what a greedy model would say there."""
        found: list[int] = []
        for _ in range(lost):
            whole = await self._vocabulary([*before, *found])
            found.append(max(self._broken & whole.keys(), key=lambda token: whole[token]))
        return found

    async def _told(
        self, chunk: Chunk, before: list[int], tokens: Sequence[int]
    ) -> tuple[list[float], list[list[tuple[int, float]]]]:
        """Log-probabilities of these tokens, and the likeliest at their places."""
        own: list[float] = []
        alternatives: list[list[tuple[int, float]]] = []
        rows = {row["id"]: row for row in chunk.get("completion_probabilities") or []}
        for place, token in enumerate(tokens):
            if token in rows and place == len(tokens) - 1:
                own.append(_logprob(rows[token]["logprob"]))
                alternatives.append([(top["id"], _logprob(top["logprob"])) for top in rows[token]["top_logprobs"]])
            else:
                whole = await self._vocabulary([*before, *tokens[:place]])
                best = max(whole, key=lambda t: whole[t])
                own.append(whole[token])
                alternatives.append([(best, whole[best])])
        return own, alternatives

    # -- scoring --

    async def _score(self, tokens: list[int], start: int) -> Score:
        found: list[tuple[float, int, float]] = []
        while start + len(found) < len(tokens):
            place = start + len(found)
            if not await self._forced(tokens, place, found):
                whole = await self._vocabulary(tokens[:place])
                best = max(whole, key=lambda t: whole[t])
                found.append((whole[tokens[place]], best, whole[best]))
        own, tops, top_logprobs = zip(*found, strict=True)
        return Score(own, tops, top_logprobs)

    async def _forced(self, tokens: list[int], place: int, found: list[tuple[float, int, float]]) -> bool:
        """Let the server write what stands there. No grammar allows a special token, and none a part of a character."""
        rest = list(itertools.takewhile(lambda token: token not in self._unforced, tokens[place:]))
        if not rest:
            return False
        body = {
            "prompt": tokens[:place], "n_predict": len(rest), "temperature": 0.0, "n_probs": 1, "cache_prompt": True,
            "grammar": "root ::= " + " ".join(f"<[{token}]>" for token in rest), **UNGUESSED,
        }  # fmt: skip
        before = len(found)
        async for chunk in self._stream(body):
            rows = chunk.get("completion_probabilities") or []
            index = chunk["tokens_predicted"] - 1
            if chunk.get("stop") or not rows:
                break
            if index != len(found) - before or rows[0]["id"] != rest[index]:
                break
            top = rows[0]["top_logprobs"][0]
            found.append((_logprob(rows[0]["logprob"]), top["id"], _logprob(top["logprob"])))
        return len(found) > before

    async def _vocabulary(self, before: Sequence[int]) -> dict[int, float]:
        """Log-probability of every token after these. What is sampled must be a whole character to be told of."""
        plain = self._tokenizer.encode("a", add_special_tokens=False)[-1]
        body = {
            "prompt": list(before), "n_predict": 1, "temperature": 0.0, "n_probs": self._tokenizer.vocabulary_size,
            "grammar": f"root ::= <[{plain}]>", "cache_prompt": True, **UNGUESSED,
        }  # fmt: skip
        async for chunk in self._stream(body):
            for row in chunk.get("completion_probabilities") or []:
                return {top["id"]: _logprob(top["logprob"]) for top in row["top_logprobs"]}
        raise EngineError("llama-server told no probabilities")


def _sampling(generation: Generation) -> Chunk:
    if generation.temperature <= 0:
        return {"temperature": 0.0, "samplers": ["temperature"]}
    return {
        "temperature": generation.temperature, "top_p": generation.top_p, "seed": derived_seed(generation) % 2**32,
        "samplers": ["temperature", "top_p"],
    }  # fmt: skip


def _finish(chunk: Chunk) -> str | None:
    if not chunk.get("stop"):
        return None
    return "length" if chunk.get("stop_type") == "limit" else "stop"


def _logprob(value: float | None) -> float:
    return max(float(value), -1e4) if value is not None and not math.isnan(value) else -1e4


def _splits(text: bytes, parts: int) -> list[list[bytes]]:
    """All ways to cut into so many parts, none empty."""
    if parts <= 1:
        return [[text]] if text and parts == 1 else []
    return [[text[:cut], *rest] for cut in range(1, len(text)) for rest in _splits(text[cut:], parts - 1)]


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fault(text: str) -> str:
    try:
        return f"llama-server: {json.loads(text)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"llama-server: {text[:300]}"
