"""`pw serve DIR`: engines and one gateway in front of them, until told to stop."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from pennyweight.cli import options
from pennyweight.errors import EngineError, UsageError


def serve(
    target: Annotated[str, typer.Argument(help="A deployment's directory or file, or with --engine a model.")],
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind to.")] = 8000,
    engine: Annotated[str | None, typer.Option(help="Serve the model directory TARGET with this engine.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="An engine setting, name=value.")] = None,
    speculative_config: options.SpeculativeConfig = None,
    replicas: Annotated[int, typer.Option(help="Engine processes.")] = 1,
    slo: Annotated[
        str | None, typer.Option(help="ttft:MS: requests whose first token cannot come in time are told so at once.")
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait.")] = 1024,
    keys: Annotated[Path | None, typer.Option(help="API keys, made with `pw keys`; else anybody may ask.")] = None,
    cache: Annotated[str, typer.Option(help="Answers given before: a file, or redis://….")] = "",
    cache_ttl: Annotated[float, typer.Option(help="Seconds that an answer is kept.")] = 3600.0,
    cache_size: Annotated[str, typer.Option(help="Of the cache's file, as 1GiB.")] = "1GiB",
    state: Annotated[Path | None, typer.Option(help="Directory for the batch API's files and queue.")] = None,
    stall_timeout: Annotated[float, typer.Option(help="Seconds of silence after which an engine is replaced.")] = 120.0,
    drain_timeout: Annotated[float, typer.Option(help="Seconds that running requests get when told to stop.")] = 60.0,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file.")] = None,
    start_timeout: Annotated[float, typer.Option(help="Seconds that an engine may take to get ready.")] = 300.0,
    log: Annotated[Path | None, typer.Option(help="Directory for the engines' logs.")] = None,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="Write requests' texts into the log.")] = False,
) -> None:
    """Serve a deployment with the OpenAI API: engines, and a gateway in front of them."""
    import logging
    import tempfile

    from pennyweight.cli.targets import parse
    from pennyweight.paths import absolute
    from pennyweight.serve import catalogue, gateway

    parsed = parse(target, engine, {**options.settings(setting), **options.speculation(speculative_config)})
    if parsed.deployment is None or parsed.deployment.engine == catalogue.REMOTE:
        raise EngineError(f"{target} is served already: give a deployment.")
    settings = gateway.GatewaySettings(
        host=host,
        port=port,
        replicas=replicas,
        max_queue=max_queue,
        slo_ttft_ms=longest_wait(slo),
        keys=keys,
        cache=cache if "://" in cache or not cache else str(absolute(cache)),
        cache_ttl_seconds=cache_ttl,
        cache_bytes=int(options.size(cache_size, "--cache-size") or 0),
        stall_seconds=stall_timeout,
        start_seconds=start_timeout,
        drain_seconds=drain_timeout,
        state=state,
        certificate=tls_certificate,
        private_key=tls_key,
        log_requests=log_requests,
    )
    logging.basicConfig(level=logging.INFO if log_requests else logging.WARNING, format="%(asctime)s %(message)s")
    served = parsed.deployment.served_name

    def ready(base_url: str) -> None:
        typer.echo(f"{parsed.label} at {base_url}/v1, model {served!r}; {base_url}/ to look at. Ctrl-C stops it.")

    with ExitStack() as stack:
        place = log or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pennyweight-")))
        gateway.run(parsed.deployment, settings, place, evidence_of(target), ready)
    typer.echo("Stopped.")


def longest_wait(slo: str | None) -> float:
    """Milliseconds; 0 where none was given."""
    found = options.pairs(slo, "--slo")
    if found.keys() - {"ttft"}:
        raise UsageError("--slo of a gateway takes ttft:MS: it can promise when an answer begins, and nothing else.")
    return found.get("ttft", 0.0)


def evidence_of(target: str) -> dict[str, Any]:
    """What `pw optimize` left beside the deployment."""
    try:
        found: dict[str, Any] = json.loads((Path(target) / "evidence.json").read_text())
    except (OSError, ValueError):
        return {}
    return found
