"""A deployment or a URL on the command line, as something that can be measured."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pennyweight.deployment import Deployment
from pennyweight.errors import EndpointError, EngineRefused, UsageError
from pennyweight.paths import absolute
from pennyweight.serve import Endpoint, catalogue, serve


@dataclass(frozen=True)
class Target:
    """`deployment` is None for a URL: a server that we did not start."""

    text: str
    deployment: Deployment | None = None

    @property
    def label(self) -> str:
        return self.deployment.label if self.deployment else self.text

    @property
    def tokenizer(self) -> Path | None:
        return Path(self.deployment.model_path) if self.deployment else None

    def open(self, stack: ExitStack, model: str | None = None, api_key: str | None = None) -> Endpoint:
        """The endpoint, started if it is ours."""
        if self.deployment is not None:
            return stack.enter_context(serve(self.deployment))
        base_url = self.text.rstrip("/").removesuffix("/v1")
        return Endpoint(base_url, model or _only_model(base_url, api_key))


def parse(text: str, engine: str | None = None, settings: dict[str, Any] | None = None) -> Target:
    """A URL, a directory or file of a deployment, or with `engine` a model directory to be served by it."""
    if text.startswith(("http://", "https://")):
        if engine or settings:
            raise UsageError("--engine and --set belong to a model that we serve, not to a URL.")
        return Target(text)
    if engine is None:
        deployment = Deployment.read(absolute(text))
        if settings:
            settings = catalogue.with_absolute_paths(deployment.engine, settings)
            deployment = replace(deployment, settings={**deployment.settings, **settings})
            refuse_conflict(deployment.engine, deployment.settings)
        return Target(text, deployment)
    from pennyweight import checkpoint, techniques
    from pennyweight.techniques.dequantize import Dequantize

    model = checkpoint.open_model(text)
    if model.format == "gguf" and model.path.is_file():
        model = techniques.apply(Dequantize(), model)
    wanted = catalogue.offer(engine).model_format
    if wanted != model.format:
        raise UsageError(f"{engine} serves {wanted} and {text} is {model.format}: make it with `pw quantize`.")
    settings = catalogue.with_absolute_paths(engine, settings or {})
    catalogue.check(engine, settings)
    refuse_conflict(engine, settings)
    return Target(text, Deployment(engine, str(model.path), model.id, model.scheme, settings))


def refuse_conflict(engine: str, settings: Mapping[str, Any]) -> None:
    """Levers that are known to break each other are not pulled together."""
    from pennyweight.search import compatibility

    reason = compatibility.conflict(engine, settings, catalogue.offer(engine).levers)
    if reason:
        raise EngineRefused(reason)


def remote_settings(engines: tuple[str, ...] | None, base_url: str | None) -> dict[str, str] | None:
    """Of the server that `--base-url` names, which `--engines` may leave out."""
    asked = engines is not None and catalogue.REMOTE in engines
    if base_url is None:
        if asked:
            raise UsageError("--engines remote needs --base-url with the server's address.")
        return None
    if engines is not None and not asked:
        raise UsageError("--base-url is given and --engines leaves remote out: add it there.")
    url = base_url.rstrip("/").removesuffix("/v1")
    return {"base_url": url, "served_model": _only_model(url, os.environ.get("OPENAI_API_KEY"))}


def _only_model(base_url: str, api_key: str | None) -> str:
    from pennyweight.measure.client import connect

    async def ask() -> list[dict[str, Any]]:
        async with connect(base_url, "", timeout=10, api_key=api_key) as client:
            return await client.models()

    models = asyncio.run(ask())
    if len(models) != 1:
        names = ", ".join(str(m.get("id")) for m in models) or "none"
        raise EndpointError(f"{base_url} serves {names}: name one with --model.")
    return str(models[0]["id"])
