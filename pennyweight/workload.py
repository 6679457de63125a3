"""Workload: the requests that a deployment has to serve, and when they arrive."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pennyweight.errors import UsageError, WorkloadError

COPY_FRONT = 32  # tokens
# Fields of a request, beside its prompt and length, that change its answer.
ANSWER_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "n",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "chat_template_kwargs",
)
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
# Fields that say how an answer is sent or accounted for, and nothing of what it is.
DELIVERY_FIELDS = (
    "model",
    "stream",
    "stream_options",
    "user",
    "metadata",
    "store",
    "service_tier",
    "logprobs",
    "top_logprobs",
    "safety_identifier",
    "prompt_cache_key",
)
# Fields that change an answer and that nothing here can replay.
UNSUPPORTED_FIELDS = (
    "audio",
    "bad_words",
    "best_of",
    "echo",
    "function_call",
    "functions",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "length_penalty",
    "max_new_tokens",
    "max_output_tokens",
    "min_tokens",
    "mirostat",
    "modalities",
    "prediction",
    "stop_token_ids",
    "structured_outputs",
    "suffix",
    "thinking",
    "typical_p",
    "use_beam_search",
    "verbosity",
    "web_search_options",
)
INSTRUCTING = ("system", "developer")  # roles whose messages say what kind of work is asked for
SCORERS = ("exact", "numeric", "contains", "choice", "regex")


def content_text(content: Any) -> str:
    """Of a message: its text, or its text parts one after the other; empty for anything else."""
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    return "".join(part for part in parts if isinstance(part, str))


@dataclass(frozen=True)
class Request:
    """One request. Exactly one of `messages`, `prompt` and `prompt_tokens` is set, except that a request of a
    length-only trace has none of them but `shape` (token counts), until it is synthesised for a tokenizer.

    `arrival` is in seconds after the first request. `session` ties requests that must stay in one half of a split.
    `fields` are the other fields of the body that change an answer, as OpenAI's API spells them (`ANSWER_FIELDS`).
    """

    id: str
    session: str
    max_tokens: int
    messages: tuple[Mapping[str, str], ...] = ()
    prompt: str = ""
    prompt_tokens: tuple[int, ...] = ()
    shape: PromptShape | None = None
    arrival: float | None = None
    reference: str | None = None
    scorer: str | None = None
    choices: tuple[str, ...] = ()
    kind: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt_key(self) -> str:
        """Equal for requests that ask the same; empty where the prompt is not known."""
        asked = (self.messages, self.prompt, self.prompt_tokens)
        return repr(asked) if any(asked) else ""

    @property
    def has_form(self) -> bool:
        """Must the answer follow a schema, be JSON, or may it call a tool?"""
        form = (self.fields.get("response_format") or {}).get("type", "text")
        return form != "text" or bool(self.fields.get("tools"))

    @property
    def labelled(self) -> bool:
        return self.reference is not None and self.scorer is not None

    def as_json(self) -> dict[str, Any]:
        """The fields that are set, as our own JSONL spells them."""
        value: dict[str, Any] = {"id": self.id, "session": self.session, "max_tokens": self.max_tokens}
        if self.messages:
            value["messages"] = [dict(m) for m in self.messages]
        for name in ("prompt", "arrival", "reference", "scorer", "kind"):
            if getattr(self, name) not in (None, ""):
                value[name] = getattr(self, name)
        for name in ("prompt_tokens", "choices"):
            if getattr(self, name):
                value[name] = list(getattr(self, name))
        return value | dict(self.fields)


@dataclass(frozen=True)
class PromptShape:
    """What a length-only trace knows of a prompt: its token count, and hashes of its leading blocks, which are
    equal where prompts share a prefix. `scope` limits the hashes to a session where the trace says so."""

    tokens: int
    block_hashes: tuple[str, ...] = ()
    block_size: int = 0


@dataclass(frozen=True)
class Arrivals:
    """How requests are sent: `recorded` times (scaled), `poisson` or `gamma` at a rate, or `closed` loop.

    `burstiness` is the gamma shape, as vLLM's benchmark has it: 1 is Poisson, below 1 is burstier. `max_concurrency`
    bounds the requests at a time in every kind; None: one in a closed loop, no bound otherwise.
    """

    kind: str = "closed"
    max_concurrency: int | None = None
    request_rate: float = 0.0
    burstiness: float = 1.0
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("recorded", "poisson", "gamma", "closed"):
            raise UsageError(f"Arrivals {self.kind!r} are unknown: use recorded, poisson, gamma or closed.")
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise UsageError(f"--max-concurrency {self.max_concurrency} is not possible: use 1 or more.")
        if self.kind in ("poisson", "gamma") and not 0 < self.request_rate < float("inf"):
            raise UsageError(f"--request-rate {self.request_rate} is not possible: use a rate above 0 per second.")
        if not (0 < self.burstiness < float("inf") and 0 < self.time_scale < float("inf")):
            raise UsageError("--burstiness and --time-scale must be finite and above 0.")


@dataclass(frozen=True)
class Workload:
    """A named list of requests."""

    name: str
    requests: tuple[Request, ...]

    def __post_init__(self) -> None:
        if not self.requests:
            raise WorkloadError(f"Workload {self.name!r} has no requests: give a file with at least one line.")

    @property
    def id(self) -> str:
        digest = hashlib.sha256()
        for request in self.requests:
            digest.update(repr(sorted(request.as_json().items())).encode())
            digest.update(repr(request.shape).encode())
        return digest.hexdigest()[:16]

    @property
    def labelled(self) -> tuple[Request, ...]:
        return tuple(r for r in self.requests if r.labelled)

    @property
    def fields(self) -> frozenset[str]:
        """Every field of its requests that changes an answer."""
        return frozenset(name for request in self.requests for name in request.fields)

    def window(self, count: int | None, seed: int = 0) -> Workload:
        """`count` requests that follow each other, from a seeded place on: a time window of a recorded trace, with the
        load that it had. (Requests picked from the whole would be a lighter one.)"""
        if count is None or count >= len(self.requests):
            return self
        if count < 1:
            raise UsageError(f"--num-prompts {count} is not possible: use 1 or more.")
        start = random.Random(seed).randint(0, len(self.requests) - count) if seed else 0
        return replace(self, requests=self.requests[start : start + count])

    def take(self, count: int | None, seed: int = 0) -> Workload:
        """`count` requests in their own order: the first ones of a seeded order over whole sessions."""
        if count is None or count >= len(self.requests):
            return self
        if count < 1:
            raise UsageError(f"--num-prompts {count} is not possible: use 1 or more.")
        sessions: dict[str, list[str]] = {}
        for request in self.requests:
            sessions.setdefault(request.session, []).append(request.id)
        chosen: set[str] = set()
        for session in sorted(sessions, key=lambda s: _order(s, seed)):
            chosen.update(sessions[session][: count - len(chosen)])
        return replace(self, requests=tuple(r for r in self.requests if r.id in chosen))

    def at_least(self, count: int) -> Workload:
        """Repeated until there are at least `count` requests. Each copy's text begins differently, so that a prefix
        cache has no hits between copies but those that the workload has anyway: instructions that several sessions
        share are kept, as the kind of a request is known by them."""
        copies = max(1, -(-count // len(self.requests)))
        kept = self._shared_instructions
        repeated = [_copy(r, number, f"({number}) ", kept) for number in range(copies) for r in self.requests]
        return replace(self, requests=tuple(repeated[: max(count, len(self.requests))]))

    def shuffled(self, seed: int = 0) -> Workload:
        """The same requests, sessions in a seeded order."""
        return replace(self, requests=tuple(sorted(self.requests, key=lambda r: _order(r.session, seed))))

    def variant(self, number: int) -> Workload:
        """The same requests with texts that begin differently: for another run against a server that still runs.
        Instructions that several sessions share are kept."""
        kept = self._shared_instructions
        return replace(self, requests=tuple(_copy(r, number, f"[{number}] ", kept) for r in self.requests))

    @property
    def _shared_instructions(self) -> frozenset[str]:
        sessions: dict[str, set[str]] = {}
        for request in self.requests:
            for message in request.messages:
                if message.get("role") in INSTRUCTING:
                    sessions.setdefault(message["content"], set()).add(request.session)
        return frozenset(text for text, named in sessions.items() if len(named) > 1)

    def split(self, seed: int = 0) -> tuple[Workload, Workload]:
        """The tuning half and the held-out half. Neither a session nor copies of one prompt are ever cut, so nothing
        leaks across."""
        unit = clusters(self.requests)
        units = sorted(set(unit.values()), key=lambda name: _order(name, seed))
        if len(units) < 2:
            raise WorkloadError(
                f"Workload {self.name!r} has one session only, so nothing can be held out: give at least two sessions "
                "with prompts that differ."
            )
        tuning = set(units[: len(units) // 2])
        return (
            Workload(f"{self.name}/tuning", tuple(r for r in self.requests if unit[r.id] in tuning)),
            Workload(f"{self.name}/held-out", tuple(r for r in self.requests if unit[r.id] not in tuning)),
        )


def _copy(request: Request, number: int, mark: str, kept: frozenset[str]) -> Request:
    if number == 0:
        return request
    messages = tuple(
        m if m.get("role") in INSTRUCTING and m["content"] in kept else {**m, "content": mark + m["content"]}
        for m in request.messages
    )
    # Token prompts: the same tokens in another order at the front, where a prefix cache looks first.
    front = list(request.prompt_tokens[:COPY_FRONT])
    random.Random(mark).shuffle(front)
    tokens = (*front, *request.prompt_tokens[COPY_FRONT:])
    return replace(
        request,
        id=f"{request.id} {mark.strip()}",
        session=f"{request.session} {mark.strip()}",
        messages=messages,
        prompt=mark + request.prompt if request.prompt else "",
        prompt_tokens=tokens,
    )


def clusters(requests: Sequence[Request]) -> dict[str, str]:
    """Request id -> independent unit: its session, joined with every other session that has one of its prompts."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    first_with: dict[str, str] = {}
    for request in requests:
        prompt = request.prompt_key
        known = first_with.setdefault(prompt, request.session) if prompt else request.session
        parent[root(request.session)] = root(known)
    return {request.id: root(request.session) for request in requests}


def _order(session: str, seed: int) -> bytes:
    """A stable pseudo-random position for a session: independent of file order and of Python's hash seed."""
    return hashlib.sha256(f"{seed}:{session}".encode()).digest()


def texts(requests: Sequence[Request]) -> list[str]:
    """The plain text of each request that has any: for calibration, never for serving."""
    found = []
    for request in requests:
        text = "\n\n".join(m["content"] for m in request.messages) if request.messages else request.prompt
        if text:
            found.append(text)
    return found
