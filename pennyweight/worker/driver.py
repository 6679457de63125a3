"""The process that holds a runtime and steps it, and its messages to the worker that speaks HTTP.

A process and not a thread, because libraries keep Python's interpreter lock while they compute (OpenVINO GenAI 2026.4
does for a whole step), and HTTP would stand still meanwhile.

    worker -> driver   ("submit", Generation) ("cancel", id) ("score", key, tokens, start)
                       ("embed", key, tokens, pooling) ("forget", key) ("kernels", key) ("close",)
    driver -> worker   ("ready",) ("failed", sentence) ("events", [Event, …]) ("reply", key, answer | None, fault)
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pennyweight import engines
from pennyweight.engines.base import Runtime
from pennyweight.errors import EngineRefused, PennyweightError
from pennyweight.generation import BEAT, Event, Finish, Generation, joined_score, pooled

BEAT_SECONDS = 1.0
MAX_QUIET_STEPS = 10_000  # more than the longest prompt takes, in pieces of 16 tokens


def run(connection: Connection, engine: str, settings: Mapping[str, Any], directory: str) -> None:
    """The driver process's main function: load, report ready, and step until a close message or the worker's end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the worker decides when to end
    try:
        runtime = engines.make(engine, settings).load(Path(directory))
    except PennyweightError as error:
        connection.send(("failed", str(error)))
        return
    except Exception as error:  # any error while loading becomes one message to the user
        connection.send(("failed", cannot_load(engine, directory, error)))
        return
    connection.send(("ready",))
    try:
        Driver(connection, runtime).drive()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the worker has ended
    finally:
        runtime.close()


@dataclass
class InPieces:
    """A score, or an embedding, that is being computed piece by piece."""

    key: int
    left: Iterator[Any]
    joined: Callable[[list[Any]], Any]
    pieces: list[Any] = field(default_factory=list)


class Driver:
    def __init__(self, connection: Connection, runtime: Runtime) -> None:
        self._connection = connection
        self._runtime = runtime
        self._active: set[str] = set()
        self._in_pieces: deque[InPieces] = deque()
        self._closing = False
        self._beaten = time.monotonic()
        self._quiet_steps = 0  # since the last token or piece

    def drive(self) -> None:
        while not self._closing:
            if not (self._active or self._in_pieces) or self._connection.poll():
                self._handle(self._connection.recv())
                continue
            if self._active and (events := self._step()):
                self._connection.send(("events", events))
            if self._in_pieces:
                self._go_on(self._in_pieces[0])
            self._beat()

    def _beat(self) -> None:
        """Once a second: a step or a piece was done. Long prompts and scores give no token for minutes, and an engine
        that is not heard of is taken for dead. One that only spins is not heard of."""
        if self._quiet_steps <= MAX_QUIET_STEPS and time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._beaten = time.monotonic()
            self._connection.send(("events", [BEAT]))

    def _handle(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("submit", generation):
                self._submit(generation)
            case ("cancel", generation_id):
                if generation_id in self._active:
                    self._active.discard(generation_id)
                    self._runtime.cancel(generation_id)
            case ("score", key, tokens, start):
                self._in_pieces.append(InPieces(key, self._runtime.score(tokens, start), joined_score))
            case ("embed", key, tokens, pooling):
                made = InPieces(key, self._runtime.embed(tokens), lambda pieces: pooled(pieces, pooling))
                self._in_pieces.append(made)
            case ("forget", key):
                self._in_pieces = deque(one for one in self._in_pieces if one.key != key)
            case ("kernels", key):
                self._reply(key, self._runtime.kernels)
            case _:
                self._closing = True

    def _submit(self, generation: Generation) -> None:
        try:
            self._runtime.submit(generation)
        except Exception as error:  # the library's refusal belongs to this request alone
            kind: Finish = "refused" if isinstance(error, EngineRefused) else "error"
            self._connection.send(("events", [Event(generation.id, finish=kind, error=last_line(error))]))
        else:
            self._active.add(generation.id)

    def _step(self) -> list[Event]:
        try:
            events = self._runtime.step()
            self._quiet_steps = 0 if events else self._quiet_steps + 1
        except Exception as error:  # a failed step leaves the library in an unknown state: exit
            events = [Event(i, finish="error", error=last_line(error)) for i in self._active]
            self._closing = True
        self._active.difference_update([event.id for event in events if event.finish])
        return events

    def _go_on(self, asked: InPieces) -> None:
        """The next piece of the first of them, so that running answers wait for no more than that."""
        try:
            asked.pieces.append(next(asked.left))
            self._quiet_steps = 0
            return
        except StopIteration:
            self._connection.send(("reply", asked.key, asked.joined(asked.pieces), None))
        except Exception as error:  # as above
            self._connection.send(("reply", asked.key, None, last_line(error)))
        self._in_pieces.popleft()

    def _reply(self, key: int, ask: Callable[[], Any]) -> None:
        try:
            answer, fault = ask(), None
        except Exception as error:  # as above
            answer, fault = None, last_line(error)
        self._connection.send(("reply", key, answer, fault))


def cannot_load(engine: str, directory: str, error: BaseException) -> str:
    return f"{engine} cannot load {directory} ({type(error).__name__}: {last_line(error)})."


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
