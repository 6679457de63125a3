"""Engines run a model. Each is one module; nothing heavy is imported until a worker process loads one.

An engine's class is its settings: frozen, checked when it is made. It is one of three kinds:

    a library                      load() gives a `Runtime`, which a driver process steps for our worker
    a server with another API      backend() gives a `Backend`, to which our worker sends requests
    a server of the OpenAI API     launch() gives its command line
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pennyweight.engines import conformance
from pennyweight.errors import EngineMissing, EngineRefused, UsageError
from pennyweight.generation import Event, Generation, Score, States
from pennyweight.hardware import UNKNOWN_EFFICIENCY, Efficiency, Hardware

if TYPE_CHECKING:
    from pennyweight.install.environments import Recipe

ENGINES = {
    "openvino": "pennyweight.engines.openvino.settings:OpenVINO",
    "onnxruntime": "pennyweight.engines.onnxruntime:ONNXRuntime",
    "llamacpp": "pennyweight.engines.llamacpp.settings:LlamaCpp",
    "vllm": "pennyweight.engines.vllm:VLLM",
    "transformers": "pennyweight.engines.transformers.settings:Transformers",
    "remote": "pennyweight.engines.remote:Remote",
    "scripted": "pennyweight.engines.scripted:Scripted",
}


# Fields that our worker follows whatever the engine is: they change the prompt, its reading, or where an answer ends.
WORKER_FIELDS = (
    "n",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "echo",
    "truncate_prompt_tokens",
    "add_special_tokens",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "chat_template_kwargs",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "parse_special_tokens",
)
FORM_FIELDS: Mapping[str, tuple[str, ...]] = {
    "json_schema": ("response_format", "structured_outputs", "guided_json"),
    "choice": ("structured_outputs", "guided_choice"),
    "regex": ("structured_outputs", "guided_regex"),
    "grammar": ("structured_outputs", "guided_grammar"),
}


@dataclass(frozen=True)
class Launch:
    """A server's command line, and the environment variables to add for it."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Runtime(Protocol):
    """A loaded model in a driver process: submit generations, then step until each has ended. Only one thread calls it.

    `score` gives log-probabilities of the tokens from position `start` on (1 or more), in pieces between which it may
    be stepped, and which end where the iterator is closed; one score at a time. `embed`
    gives the last hidden states likewise, on engines that say they `embeds`. `kernels` names the
    matrix-multiplication kernels as the library reports them: a slow kernel is why quantized is often not faster.
    """

    def submit(self, generation: Generation) -> None: ...
    def step(self) -> list[Event]: ...
    def cancel(self, generation_id: str) -> None: ...
    def score(self, tokens: Sequence[int], start: int) -> Iterator[Score]: ...
    def embed(self, tokens: Sequence[int]) -> Iterator[States]: ...
    def kernels(self) -> list[str]: ...
    def close(self) -> None: ...


class Backend(Protocol):
    """A server that runs the model in a separate process; our worker's event loop sends it requests. Unlike a `Runtime`
    it needs no stepping. `tell` is called with every event, and with `BEAT` where work goes on without any; `ended` is
    called once, with a message, if the server exits unexpectedly. The caller that created a backend must close it, even
    if it was never started."""

    async def start(self, tell: Callable[[Event], None], ended: Callable[[str], None]) -> None: ...
    def submit(self, generation: Generation) -> None: ...
    def cancel(self, generation_id: str) -> None: ...
    async def score(self, tokens: Sequence[int], start: int) -> Score: ...
    async def kernels(self) -> list[str]: ...
    async def close(self) -> None: ...


@dataclass(frozen=True)
class Engine:
    """Settings that every engine has; 0 threads means all cores. Subclasses add their own."""

    max_num_seqs: int = 32
    num_threads: int = 0

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    model_format: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]
    conforms: ClassVar[bool] = False  # a model is admitted by what was seen of its kind: conformance.py
    max_top_logprobs: ClassVar[int] = 1
    tested: ClassVar[tuple[str, str]] = ("0", "")  # versions: first inclusive, second exclusive
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # setting -> its allowed values
    recipe: ClassVar[Recipe | None] = None  # how to install a separate environment
    path_settings: ClassVar[tuple[str, ...]] = ()  # settings that name a file or a directory
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # preset name -> the settings it stands for
    # Share of the machine's limits that it reaches, by scheme; "" covers all other schemes. Measured:
    # docs/log/engines.md.
    efficiency: ClassVar[Mapping[str, Efficiency]] = {"": UNKNOWN_EFFICIENCY}
    colour: ClassVar[str] = "#4a3aa7"  # in the report
    forms: ClassVar[tuple[str, ...]] = ()  # kinds of `Form` that it can hold an answer to
    embeds: ClassVar[bool] = False  # gives hidden states for embeddings
    any_schema: ClassVar[bool] = False  # takes JSON schemas as they are, not only openai_api/json_schema.py's subset
    # fields of a request that sampling follows, beside those that our worker follows for every engine
    answer_fields: ClassVar[tuple[str, ...]] = ("temperature", "top_p", "seed")
    # "module:class" of the `Runtime` or the `Backend`, imported only in the process that runs it
    runtime: ClassVar[str] = ""
    server: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not 1 <= self.max_num_seqs <= 4096:
            raise EngineRefused(f"{self.name}: max_num_seqs={self.max_num_seqs} is not possible: use 1 to 4096.")
        if not 0 <= self.num_threads <= 1024:
            raise EngineRefused(f"{self.name}: num_threads={self.num_threads} is not possible: use 0 (all) to 1024.")
        for setting, known in self.choices.items():
            value = getattr(self, setting)
            if value not in known:
                raise EngineRefused(f"{self.name}: {setting}={value!r} is unknown: use one of {', '.join(known)}.")

    def load(self, directory: Path) -> Runtime:
        """Load the model in this directory. Called in the driver process only."""
        if not self.runtime:
            raise EngineRefused(f"{self.name} is a server: it is started for {directory}, not loaded.")
        loaded: Runtime = named(self.runtime)(directory, self)
        return loaded

    def backend(self, directory: Path) -> Backend | None:
        """The backend that our worker uses instead of a driver process, if this engine has one; else None."""
        if not self.server:
            return None
        made: Backend = named(self.server)(directory, self)
        return made

    def launch(self, directory: Path, host: str, port: int, names: Sequence[str]) -> Launch | None:
        """How to start an engine that is a server with the OpenAI API itself; None for one that our worker hosts."""
        del directory, host, port, names
        return None

    def search_settings(self, hardware: Hardware, streams: int, longest: int) -> Mapping[str, tuple[Any, ...]]:
        """Settings worth searching on this machine at this load: name -> values, the default first. `longest` is the
        token count of the longest request, prompt and answer."""
        del hardware, streams, longest
        return {}

    def context_length(self, config: Mapping[str, Any]) -> int:
        """Tokens of prompt and answer that one request may have."""
        return int(config.get("max_position_embeddings", 2048))

    def note(self, config: Mapping[str, Any]) -> str | None:
        """What who starts it should know, in a sentence."""
        del config
        return None

    @classmethod
    def missing(cls) -> str | None:
        """A message that says what is not installed and how to install it, or None."""
        absent = [package for package in cls.packages if util.find_spec(package) is None]
        if not absent:
            return None
        return f"{cls.name} needs {', '.join(absent)}: run `pip install {' '.join(cls.wheels(absent))}`."

    @classmethod
    def wheels(cls, packages: Sequence[str] | None = None) -> list[str]:
        """Package names as the package index spells them."""
        return [package.replace("_", "-") for package in (cls.packages if packages is None else packages)]

    @classmethod
    def version(cls) -> str:
        return metadata.version(cls.wheels()[0]) if cls.packages else "built in"

    @classmethod
    def install_path(cls) -> str:
        """Where it was found."""
        found = util.find_spec(cls.packages[0]) if cls.packages else None
        return str(Path(found.origin).parent) if found and found.origin else "built in"

    @classmethod
    def warning(cls) -> str | None:
        """A warning if the installed version is outside the tested range, else None."""
        lowest, beyond = cls.tested
        version = cls.version()
        if not beyond or _numbers(lowest) <= _numbers(version) < _numbers(beyond):
            return None
        return f"{cls.name} {version} is outside the tested range ({lowest} up to {beyond}): its answers may differ."

    @classmethod
    def on_a_gpu(cls) -> bool:
        """Whether its kernels here are those of a GPU, which the table of conformance was not made on."""
        return False

    @classmethod
    def refuse_early(cls, config: Mapping[str, Any], scheme: str) -> None:
        """Raise before anything is built if this engine cannot serve a model with this config.json."""
        if scheme not in cls.schemes:
            raise EngineRefused(f"{cls.name} does not serve {scheme}: use one of {', '.join(cls.schemes)}.")
        reason = conformance.refusal(cls.name, config, other_machine=cls.on_a_gpu()) if cls.conforms else None
        if reason:
            raise EngineRefused(f"{reason} Use another engine.")

    @classmethod
    def unheeded(cls, fields: Iterable[str]) -> list[str]:
        """Those of a request's fields that it does not follow."""
        return sorted(set(fields) - cls.followed_fields())

    @classmethod
    def followed_fields(cls) -> set[str]:
        """The fields of a request that act on its answer: its own, the worker's, and those that ask for a form."""
        asking = {name for form in cls.forms for name in FORM_FIELDS[form]}
        return {*WORKER_FIELDS, *cls.answer_fields, *asking}

    @classmethod
    def refuse_files(cls, directory: Path) -> None:
        """Raise before anything is built if this engine cannot serve the model for what its files hold."""
        del directory


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:4])


def engine_class(name: str) -> type[Engine]:
    if name not in ENGINES:
        raise UsageError(f"Engine {name!r} is unknown: use one of {', '.join(ENGINES)}.")
    found: type[Engine] = named(ENGINES[name])
    return found


def named(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def make(name: str, settings: Mapping[str, Any]) -> Engine:
    """The engine with these settings; unknown names and wrong types raise `EngineRefused`."""
    cls = engine_class(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    checked = dict(settings)
    for setting, value in settings.items():
        if setting not in fields:
            raise EngineRefused(f"{name} has no setting {setting!r}: it has {', '.join(fields)}.")
        expected = type(fields[setting].default)
        if expected is float and type(value) is int:
            checked[setting] = float(value)
        elif type(value) is not expected:
            raise EngineRefused(f"{name}: {setting}={value!r} should be of type {expected.__name__}.")
    return cls(**checked)


def require(name: str) -> type[Engine]:
    """The engine's class. Raises `EngineMissing`, which says how to install it."""
    cls = engine_class(name)
    sentence = cls.missing()
    if sentence is not None:
        raise EngineMissing(sentence)
    return cls
