"""What a user names, as values: a model to work on, a workload, and something that can be measured."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pennyweight import checkpoint, formats, schemes, techniques, traces
from pennyweight.checks.architecture import check_architecture, wrapper_of
from pennyweight.checks.known import has_language_part
from pennyweight.deployment import Deployment
from pennyweight.errors import EndpointError, EngineRefused, UsageError, WorkloadError
from pennyweight.model import LINEAGE_FILE, Model
from pennyweight.paths import absolute
from pennyweight.search import compatibility
from pennyweight.search.question import REFERENCE_ENGINE
from pennyweight.serve import Endpoint, catalogue, open_engine, open_service
from pennyweight.service import Service
from pennyweight.techniques.adapter import MergeAdapter
from pennyweight.techniques.dequantize import Dequantize
from pennyweight.techniques.language_part import LanguagePart
from pennyweight.techniques.own_file import OwnFile, scheme_of
from pennyweight.techniques.quantize import Quantize
from pennyweight.techniques.unwrap import Unwrap
from pennyweight.tokenizer import Tokenizer
from pennyweight.traces.synthesize import synthesize
from pennyweight.weights import Weights
from pennyweight.workload import Request, Workload

Progress = Callable[..., None]
OWN_FILES = "llamacpp"  # serves a user's GGUF file as it is


def open_model(reference: str, progress: Progress = lambda *_: None, *, adapter: str | Path | None = None) -> Model:
    """The user's model as a whole Hugging Face directory: de-quantized from GGUF where it is one, with the LoRA adapter
    in that directory merged into it."""
    model = _opened(reference, progress)
    if model.format != "huggingface":
        raise UsageError(f"{reference} is a {model.scheme} artifact: give the model that it was made from.")
    return techniques.apply(MergeAdapter(str(absolute(adapter))), model, progress) if adapter else model


def _opened(reference: str, progress: Progress) -> Model:
    """The model in a form that engines load, held against what transformers' class for it needs."""
    model = checkpoint.open_model(reference)
    if model.format == "gguf" and model.path.is_file():
        return techniques.apply(Dequantize(), model, progress)
    if model.lineage.steps or model.format != "huggingface":  # made here, of a model that was checked
        return model
    prefix = wrapper_of(list(Weights(model.path)))
    if prefix:
        model = techniques.apply(Unwrap(prefix), model, progress)
    if has_language_part(model.config):
        model = techniques.apply(LanguagePart(), model, progress)
    check_architecture(model.path)
    return model


def read_workload(
    name: str,
    trace_format: str | None = None,
    *,
    num_prompts: int | None = None,
    seed: int = 0,
    tokenizer: Path | None = None,
    as_recorded: bool = False,
    skip_invalid: Callable[[str], None] | None = None,
) -> Workload:
    """A built-in workload or a file, cut and, where it has lengths only, filled with prompts for the tokenizer in that
    directory. `as_recorded` cuts a time window, so that the load stays the recorded one. Rows that cannot be
    read are a fault; with `skip_invalid`, which is called with each fault, they are left out."""
    whole = traces.load(name, trace_format, count_tokens=counter_of(tokenizer), skip_invalid=skip_invalid)
    if as_recorded and any(request.arrival is None for request in whole.requests):
        raise UsageError(f"{whole.name} has no recorded times: use --request-rate or --max-concurrency.")
    found = whole.window(num_prompts, seed) if as_recorded else whole.take(num_prompts, seed)
    if any(request.shape is not None for request in found.requests):
        if tokenizer is None:
            raise UsageError("A length-only trace needs a tokenizer: add --tokenizer with the model's directory.")
        encode = Tokenizer(tokenizer).encode
        found = synthesize(found, lambda text: encode(text, add_special_tokens=False), seed)
    return found


def fitted(workload: Workload, directory: Path | None, *, how: str, say: Callable[[str], None]) -> Workload:
    """Without the requests that do not fit the context of the model in this directory: refused, dropped or truncated.
    `say` also warns of chats for a model without a chat template."""
    if how not in ("refuse", "drop", "truncate"):
        raise UsageError(f"--too-long {how!r} is unknown: use refuse, drop or truncate.")
    config_file = directory / "config.json" if directory else None
    if directory is None or config_file is None or not config_file.exists():
        if how != "refuse":
            raise UsageError(f"--too-long {how} counts tokens: add --tokenizer with the model's directory.")
        say("Lengths are not held against the model's context, for want of --tokenizer with the model's directory.")
        return workload
    tokenizer = Tokenizer(directory)
    if not tokenizer.has_template and any(request.messages for request in workload.requests):
        say("The model has no chat template: messages are sent as plain paragraphs.")
    context = int(json.loads(config_file.read_text()).get("max_position_embeddings") or 0)
    lengths = {request.id: len(tokenizer.request_tokens(request)) for request in workload.requests}
    long = [request for request in workload.requests if context and lengths[request.id] + request.max_tokens > context]
    if not long:
        return workload
    some = ", ".join(repr(request.id) for request in long[:3])
    what = (
        f"{len(long)} of {len(workload.requests)} requests do not fit the model's context of {context} tokens ({some})"
    )
    if how == "refuse":
        raise WorkloadError(
            f"{what}: leave them out with --too-long drop, or cut their prompts with --too-long truncate."
        )
    if how == "drop":
        say(f"{what} and are left out.")
        kept = {request.id for request in workload.requests} - {request.id for request in long}
        return replace(workload, requests=tuple(r for r in workload.requests if r.id in kept))
    say(f"{what}; the beginnings of their prompts are cut.")
    cut = {request.id: _truncated(request, tokenizer, context) for request in long}
    return replace(workload, requests=tuple(cut.get(r.id, r) for r in workload.requests))


def _truncated(request: Request, tokenizer: Tokenizer, context: int) -> Request:
    """The end of its prompt as tokens, and of the answer at most half of the context."""
    answer = min(request.max_tokens, context // 2)
    tokens = tuple(tokenizer.request_tokens(request))[-(context - answer) :]
    return replace(request, messages=(), prompt="", prompt_tokens=tokens, max_tokens=answer)


def counter_of(tokenizer: Path | None) -> Callable[[str], int] | None:
    """Counts the tokens of a text as the tokenizer in this directory cuts it."""
    if tokenizer is None:
        return None
    if not (tokenizer / "tokenizer.json").exists():
        return None  # whoever needs the tokenizer says so
    encode = Tokenizer(tokenizer).encode
    return lambda text: len(encode(text, add_special_tokens=False))


@dataclass(frozen=True)
class Target:
    """Something that can be measured. `service` is None for a URL: a server that we did not start."""

    text: str
    service: Service | None = None

    @property
    def label(self) -> str:
        if self.service is None:
            return self.text
        only = self.service.only
        return only.short_label if only else self.service.label

    @property
    def tokenizer(self) -> Path | None:
        """The model directory of a service of one; else None."""
        only = self.service.only if self.service else None
        return Path(only.model_path) if only else None

    def open(
        self, stack: ExitStack, *, model: str | None = None, api_key: str | None = None, direct: bool = False
    ) -> Endpoint:
        """The endpoint, started if it is ours: the gateway's, or with `direct` the engine's own."""
        if self.service is None:
            base_url = self.text.rstrip("/").removesuffix("/v1")
            return Endpoint(base_url, model or only_model(base_url, api_key), api_key=api_key)
        if not direct:
            return stack.enter_context(open_service(self.service))
        if self.service.only is None:
            raise UsageError("--direct asks one engine, and this service has several members.")
        return stack.enter_context(open_engine(self.service.only))


def read_target(
    text: str,
    *,
    engine: str | None = None,
    settings: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
    adapter: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Target:
    """A URL, a directory or file of a service or deployment, or a model to be served by `engine`: unmodified, so in the
    engine's own full-precision form; without an engine by the one that takes every model."""
    if re.match(r"(?i)https?://|[\w.-]+:\d{1,5}(/|$)", text) and not text.startswith(("http://", "https://")):
        raise UsageError(f"{text} looks like an address: write it with http:// or https:// in front.")
    if text.startswith(("http://", "https://")):
        if engine or settings or names:
            raise UsageError("--engine, --set and --served-model-name belong to a model that we serve, not to a URL.")
        return Target(text)
    engine = engine or usual_engine(text)
    if engine is None:
        if adapter:
            raise UsageError(f"--adapter is merged into a model, and {text} is none: give the adapter's base model.")
        return Target(text, _described(text, settings or {}, names))
    opened = open_model(text, progress, adapter=adapter) if adapter else _opened(text, progress)
    own = None if adapter else _own_file(text, engine, opened, progress)
    model = own or _in_form_for(engine, opened, progress)
    reason = catalogue.refusal(engine, model.scheme, model.config, model.path)
    if reason:
        raise EngineRefused(reason)
    checked = _checked(engine, settings or {})
    deployment = Deployment(engine, str(model.path), model.id, model.scheme, checked, model_name=model.name)
    return Target(text, Service.of(deployment, names))


def _own_file(text: str, engine: str, opened: Model, progress: Progress) -> Model | None:
    """A GGUF file as it is, for an engine that loads GGUF; None for what is none, and for schemes that we do not
    serve."""
    file = absolute(text)
    if not file.is_file() or catalogue.offer(engine).model_format != "gguf":
        return None
    scheme = scheme_of(file)
    if scheme is None or scheme not in catalogue.offer(engine).schemes:
        return None
    if catalogue.refusal(engine, scheme, opened.config, None):
        return None
    return techniques.apply(OwnFile.of(file), opened, progress)


def _in_form_for(engine: str, model: Model, progress: Progress) -> Model:
    """The model in the format that the engine loads: a checkpoint is converted at full precision, artifacts are not."""
    offered = catalogue.offer(engine)
    if offered.model_format == model.format:
        return model
    plain = next((scheme for scheme in offered.schemes if schemes.scheme(scheme).unmodified), None)
    if model.format != "huggingface" or plain is None:
        raise UsageError(
            f"{engine} loads {offered.model_format} and {model.name} is {model.format}: make it with `pw quantize`, of "
            "the model that this was made from."
        )
    reason = catalogue.refusal(engine, plain, model.config, model.path)
    if reason:
        raise EngineRefused(reason)
    return techniques.apply(Quantize(plain), model, progress)


def read_member(text: str, progress: Progress = lambda *_: None) -> tuple[Model, Deployment | None]:
    """A model to choose from, and its deployment where the user gives a directory that says how it is served."""
    if not is_described(text):
        opened = open_model(text, progress)
        return opened, _own_deployment(text, opened, progress)
    only = read_whole_service(text).only
    if only is None or only.engine == catalogue.REMOTE:
        raise UsageError(f"{text} serves several models, or a server of others: give a directory that serves one.")
    return checkpoint.open_model(only.model_path), only


def _own_deployment(text: str, opened: Model, progress: Progress) -> Deployment | None:
    """A GGUF file as it is on llama.cpp, where that is installed."""
    if catalogue.offer(OWN_FILES).missing:
        return None
    own = _own_file(text, OWN_FILES, opened, progress)
    return None if own is None else Deployment.of(own, OWN_FILES)


def is_described(text: str) -> bool:
    """Whether it is a file, or a directory with one, that says what to serve; else it is a model, or nothing."""
    place = absolute(text)
    if place.is_file():
        return place.suffix != ".gguf"
    return any((place / name).exists() for name in (formats.SERVICE_FILE, formats.DEPLOYMENT_FILE))


def usual_engine(text: str) -> str | None:
    """The engine for a model, by its format; None for what is no model."""
    place = absolute(text)
    if is_described(text):
        return None
    if text == "demo" or place.is_file() or (place / "adapter_config.json").exists():  # the latter is refused by name
        return REFERENCE_ENGINE
    if not (place / "config.json").exists():
        return REFERENCE_ENGINE if not place.exists() and checkpoint.is_hub_id(text) else None
    wanted = checkpoint.open_model(str(place)).format
    if wanted == "huggingface":
        return REFERENCE_ENGINE
    known = [name for name in catalogue.names() if catalogue.offer(name).model_format == wanted]
    return next((name for name in known if not catalogue.offer(name).missing), None)


def read_whole_service(place: str | Path) -> Service:
    """The service described there, with every artifact of its members held against its checksums. Large files are read
    once, until they change (checks/remembered.py)."""
    service = formats.read_service(absolute(place))
    for member in service.members.values():
        if member.model_path and (Path(member.model_path) / LINEAGE_FILE).exists():
            checkpoint.read_artifact(Path(member.model_path))
    return service


def _described(text: str, settings: Mapping[str, Any], names: Sequence[str]) -> Service:
    service = read_whole_service(text)
    if names:
        if service.only is None:
            raise UsageError("--served-model-name renames a service with one member: edit its routes instead.")
        member = next(iter(service.members))
        service = Service.of(service.only, names, replicas=service.replicas_of(member), cache=service.cache)
    if not settings:
        return service
    if service.only is None:
        raise UsageError("--set changes the settings of a service with one member: edit service.json instead.")
    return service.with_settings(_checked(service.only.engine, settings, service.only.settings))


def _checked(engine: str, settings: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings as the engine takes them: paths absolute, none unknown, no presets together that break each other."""
    whole = {**(before or {}), **catalogue.with_absolute_paths(engine, settings)}
    catalogue.check(engine, whole)
    reason = compatibility.conflict(engine, whole, catalogue.offer(engine).presets)
    if reason:
        raise EngineRefused(reason)
    return whole


def remote_settings(engines: tuple[str, ...] | None, base_url: str | None) -> dict[str, str] | None:
    """Settings of the `remote` engine for `--base-url`, or None without one."""
    asked = engines is not None and catalogue.REMOTE in engines
    if base_url is None:
        if asked:
            raise UsageError("--engines remote needs --base-url with the server's address.")
        return None
    if engines is not None and not asked:
        raise UsageError("--base-url is given and --engines leaves remote out: add it there.")
    url = base_url.rstrip("/").removesuffix("/v1")
    return {"base_url": url, "served_model": only_model(url, os.environ.get("OPENAI_API_KEY"))}


def only_model(base_url: str, api_key: str | None) -> str:
    """The name of the one model that a server has; the first one, if it has several names."""
    from pennyweight.measure.client import connect

    async def ask() -> list[dict[str, Any]]:
        async with connect(base_url, "", timeout=10, api_key=api_key) as client:
            return await client.models()

    models = asyncio.run(ask())
    if len({m.get("root") or m.get("id") for m in models}) != 1:
        names = ", ".join(str(m.get("id")) for m in models) or "none"
        raise EndpointError(f"{base_url} serves {names}: name one with --model.")
    return str(models[0]["id"])
