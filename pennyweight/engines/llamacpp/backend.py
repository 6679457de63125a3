"""A running `llama-server` as a `Backend`: requests go to its native /completion over a Unix socket.

While a character is incomplete the server sends nothing, and then reports only the character's last token. The other
tokens are recovered from its bytes, and their log-probabilities by requesting the whole vocabulary at that position.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pennyweight.engines.llamacpp.scorer import Scorer, logprob
from pennyweight.engines.llamacpp.server import Chunk, Server, kernels_from_log
from pennyweight.engines.llamacpp.settings import LlamaCpp
from pennyweight.errors import EngineError, EngineRefused
from pennyweight.generation import BEAT, Event, Finish, Form, Generation, Score, choice_grammar, derived_seed
from pennyweight.processes import describe_exit
from pennyweight.tokenizer import Tokenizer

MAX_LOST = 4  # tokens of one character
SCORING_SLOTS = 4


class LlamaBackend:
    def __init__(self, directory: Path, settings: LlamaCpp) -> None:
        self._directory, self._settings = directory, settings
        self._file = directory / "model.gguf"
        self._place = Path(tempfile.mkdtemp(prefix="pennyweight-llama-"))
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self._scores: Scorer | None = None
        self._servers: list[Server] = []
        self._numbers = itertools.count()
        self._starting = asyncio.Lock()

    async def start(self, tell: Callable[[Event], None], ended: Callable[[str], None]) -> None:
        self._tell, self._ended = tell, ended
        self._config = json.loads((self._directory / "config.json").read_text())
        self._settings.refuse_memory(self._config, self._file.stat().st_size)
        self._tokenizer = Tokenizer(self._directory)
        self._by_bytes = {piece: token for token, piece in self._tokenizer.byte_pieces.items()}
        self._broken = {token for token, piece in self._tokenizer.byte_pieces.items() if not _is_text(piece)}
        self._server = await self._started(self._settings)
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, args=(loop,), name="llama-server-end", daemon=True).start()

    def submit(self, generation: Generation) -> None:
        task = asyncio.get_running_loop().create_task(self._generate(generation))
        self._tasks[generation.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(generation.id, None))

    def cancel(self, generation_id: str) -> None:
        task = self._tasks.get(generation_id)
        if task is not None:
            task.cancel()

    async def score(self, tokens: Sequence[int], start: int) -> Score:
        return await (await self._scorer()).score(list(tokens), start)

    async def kernels(self) -> list[str]:
        socket = self._place / "kernels.sock"
        async with self._starting:
            return await asyncio.to_thread(kernels_from_log, self._settings, self._file, self._config, socket)

    async def close(self) -> None:
        self._closing = True
        for server in self._servers:
            await server.end()
        shutil.rmtree(self._place, ignore_errors=True)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        code = self._server.process.wait()
        if not self._closing:
            with contextlib.suppress(RuntimeError):  # the loop is closed: this process is ending too
                loop.call_soon_threadsafe(self._ended, f"llama-server ended{describe_exit(code)}.")

    async def _started(self, settings: LlamaCpp) -> Server:
        """The second server is started during a request, whose client may disconnect before it is ready."""
        server = Server(settings, self._file, self._config, self._place / f"{next(self._numbers)}.sock")
        try:
            await server.ready()
        except BaseException:
            await server.end()
            raise
        self._servers.append(server)
        return server

    async def _scorer(self) -> Scorer:
        """Draft tokens come without log-probabilities, so with speculation a second server does the scoring."""
        async with self._starting:
            if self._scores is None or not self._scores.alive:
                server = self._server
                if self._settings.speculative_method:
                    plain = replace(self._settings, speculative_method="", draft_model="", max_num_seqs=SCORING_SLOTS)
                    server = await self._started(plain)
                self._scores = Scorer(
                    server,
                    self._tokenizer,
                    rows=self._config["vocab_size"],
                    broken=self._broken,
                    beat=lambda: self._tell(BEAT),
                )
            return self._scores

    async def _generate(self, generation: Generation) -> None:
        wants = generation.top_logprobs is not None
        body = {
            "prompt": list(generation.prompt),
            "n_predict": generation.max_tokens,
            **_sampling(generation),
            "cache_prompt": self._settings.enable_prefix_caching,
            "ignore_eos": not {*generation.stop_tokens} & {*self._tokenizer.end_tokens},
        }
        if wants:
            body |= {"n_probs": max(1, generation.top_logprobs or 0)}
        if generation.form is not None:
            body |= _followed(generation.form)
        reported = 0
        answer: list[int] = []
        try:
            async for chunk in self._server.stream(body):
                tokens = await self._tokens(chunk, [*generation.prompt, *answer], reported)
                reported = chunk["tokens_predicted"]
                finish = _finish(chunk)
                ended = next((n for n, token in enumerate(tokens) if token in generation.stop_tokens), None)
                if ended is not None:
                    tokens, finish = tokens[:ended], "stop"
                if not tokens and not finish:
                    continue
                logprobs: list[float] = [0.0] * len(tokens)
                alternatives: list[list[tuple[int, float]]] = []
                if wants:
                    logprobs, alternatives = await self._logprobs_of(chunk, [*generation.prompt, *answer], tokens)
                answer += tokens
                cached = (chunk.get("timings") or {}).get("cache_n")
                self._tell(Event(generation.id, tokens, logprobs, alternatives, finish, cached=cached))
                if finish:
                    return
            raise EngineError("llama-server closed the answer early")
        except Exception as error:  # whatever it is, the request must end
            kind: Finish = "refused" if isinstance(error, EngineRefused) else "error"
            self._tell(Event(generation.id, finish=kind, error=str(error) or type(error).__name__))

    async def _tokens(self, chunk: Chunk, before: Sequence[int], reported: int) -> list[int]:
        """All tokens after the first `reported`; the server reports only the last one."""
        named = list(chunk.get("tokens") or [])
        lost = chunk["tokens_predicted"] - reported - len(named)
        if lost <= 0:
            return named
        spelled = self._spelled(chunk["content"], lost, named[-1]) if named else None
        return spelled or [*await self._likeliest(before, lost), *named]

    def _spelled(self, text: str, lost: int, last: int) -> list[int] | None:
        """The tokens whose bytes make up this text, given the last one; None if they form no whole character."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        if len(encoded) == lost + 1 and encoded[-1] == last:
            return encoded
        whole, end = text.encode(), self._tokenizer.byte_pieces.get(last, b"")
        if lost > MAX_LOST or not whole.endswith(end):
            return None
        for cuts in _splits(whole[: len(whole) - len(end)], lost):
            if all(part in self._by_bytes for part in cuts):
                return [*(self._by_bytes[part] for part in cuts), last]
        return None

    async def _likeliest(self, before: Sequence[int], lost: int) -> list[int]:
        """Invalid UTF-8 does not appear in the text, so take the most likely tokens (greedy) there."""
        found: list[int] = []
        for _ in range(lost):
            whole = await (await self._scorer()).vocabulary([*before, *found])
            found.append(max(self._broken & whole.keys() or whole, key=lambda token: whole[token]))
        return found

    async def _logprobs_of(
        self, chunk: Chunk, before: list[int], tokens: Sequence[int]
    ) -> tuple[list[float], list[list[tuple[int, float]]]]:
        """Log-probabilities of these tokens, and the likeliest at their places."""
        own: list[float] = []
        alternatives: list[list[tuple[int, float]]] = []
        rows = {row["id"]: row for row in chunk.get("completion_probabilities") or []}
        for place, token in enumerate(tokens):
            if token in rows and place == len(tokens) - 1:
                own.append(logprob(rows[token]["logprob"]))
                alternatives.append([(top["id"], logprob(top["logprob"])) for top in rows[token]["top_logprobs"]])
            else:
                whole = await (await self._scorer()).vocabulary([*before, *tokens[:place]])
                best = max(whole, key=lambda t: whole[t])
                own.append(whole[token])
                alternatives.append([(best, whole[best])])
        return own, alternatives


def _sampling(generation: Generation) -> Chunk:
    """The server applies its samplers in the order in which they are named."""
    made: Chunk = {"logit_bias": [list(pair) for pair in generation.logit_bias]} if generation.logit_bias else {}
    samplers = []
    if generation.repetition_penalty != 1:
        samplers.append("penalties")
        made |= {
            "repeat_penalty": generation.repetition_penalty,
            "repeat_last_n": len(generation.prompt) + generation.max_tokens,
        }
    if generation.temperature <= 0:
        return made | {"samplers": [*samplers, "top_k"], "top_k": 1}  # "temperature" at 0 sorts the whole vocabulary
    samplers.append("temperature")
    for name, value in (("min_p", generation.min_p), ("top_k", generation.top_k)):
        if value:
            samplers.append(name)
            made[name] = value
    return made | {
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "seed": derived_seed(generation) % 2**32,
        "samplers": [*samplers, "top_p"],
    }


def _followed(form: Form) -> Chunk:
    if form.kind == "json_schema":
        return {"json_schema": json.loads(form.text)}
    return {"grammar": choice_grammar(json.loads(form.text)) if form.kind == "choice" else form.text}


def _finish(chunk: Chunk) -> Finish | None:
    if not chunk.get("stop"):
        return None
    return "length" if chunk.get("stop_type") == "limit" else "stop"


def _splits(text: bytes, parts: int) -> list[list[bytes]]:
    """All ways to split into `parts` non-empty parts."""
    if parts <= 1:
        return [[text]] if text and parts == 1 else []
    return [[text[:cut], *rest] for cut in range(1, len(text)) for rest in _splits(text[cut:], parts - 1)]


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
