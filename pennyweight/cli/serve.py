"""`pw serve DIR`: engines behind one gateway, until it is stopped."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pennyweight.cli import options
from pennyweight.errors import EngineError, UsageError

EXPLORED = "5%"  # of similar questions


def serve(
    target: Annotated[str, typer.Argument(help="A service's directory or file, or a model.")],
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind to.")] = 8000,
    engine: Annotated[str | None, typer.Option(help="Engine of a model; default: the one that takes all.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="An engine setting, name=value.")] = None,
    speculative_config: options.SpeculativeConfig = None,
    served_model_name: options.ServedModelName = None,
    adapter: options.Adapter = None,
    replicas: Annotated[int | None, typer.Option(help="Engine processes per member; default 1.")] = None,
    slo: Annotated[
        str | None, typer.Option(help="ttft:MS: refuse requests at once that would miss this time to first token.")
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Longest queue of waiting requests.")] = 1024,
    keys: Annotated[Path | None, typer.Option(help="API keys made with `pw keys`; by default none is needed.")] = None,
    cache: Annotated[str | None, typer.Option(help="Cache answers to equal requests: a file, or redis://….")] = None,
    cache_ttl: Annotated[float, typer.Option(help="Seconds that a cached answer is kept.")] = 3600.0,
    cache_size: Annotated[str, typer.Option(help="Largest size of the cache file, as 1GiB.")] = "1GiB",
    cache_similar: Annotated[
        str | None,
        typer.Option(help="Answer similar questions from the cache; share of these that may be wrong, as 1%."),
    ] = None,
    cache_similar_shadow: Annotated[
        bool, typer.Option("--cache-similar-shadow", help="Judge similar answers and serve none.")
    ] = False,
    cache_similar_explored: Annotated[
        str, typer.Option(help="Share of similar questions that the model answers anyway, to see what is wrong.")
    ] = EXPLORED,
    cache_similar_never: Annotated[
        list[str] | None, typer.Option(help="A word or phrase whose questions are always asked; repeatable.")
    ] = None,
    cache_similar_ttl: Annotated[
        list[str] | None,
        typer.Option(help="Seconds that answers to questions with a word or phrase live, as price:3600; repeatable."),
    ] = None,
    cache_similar_verify: Annotated[
        bool, typer.Option("--cache-similar-verify", help="Ask the model too, where the gate is not sure.")
    ] = False,
    cache_similar_embedding: Annotated[
        Path | None, typer.Option(help="Directory of another embedding: model.onnx and tokenizer.json.")
    ] = None,
    cache_similar_rebuild: Annotated[
        bool, typer.Option("--cache-similar-rebuild", help="Begin anew where another embedding filled the cache.")
    ] = False,
    state: Annotated[Path | None, typer.Option(help="Directory for the batch API's files and queue.")] = None,
    mix_shadow: Annotated[
        bool, typer.Option("--mix-shadow", help="Mixtures decide and count, and the large member answers.")
    ] = False,
    stall_timeout: Annotated[float, typer.Option(help="Seconds of silence after which an engine is replaced.")] = 120.0,
    drain_timeout: Annotated[float, typer.Option(help="Seconds for running requests to finish on shutdown.")] = 60.0,
    tls_certificate: Annotated[Path | None, typer.Option(help="TLS certificate, a PEM file.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="TLS private key, a PEM file.")] = None,
    allowed_origin: Annotated[
        list[str] | None, typer.Option(help="Web pages that may use it, as https://example.org; repeatable.")
    ] = None,
    refusals_per_second: Annotated[
        float, typer.Option(help="Of one client that sends broken requests without end; 0: no limit.")
    ] = 5.0,
    start_timeout: Annotated[float, typer.Option(help="Seconds that an engine may take to get ready.")] = 300.0,
    log: Annotated[Path | None, typer.Option(help="Directory for the engines' logs.")] = None,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="Write requests' texts into the log.")] = False,
) -> None:
    """Serve with the OpenAI API: engines behind a gateway."""
    import logging
    import tempfile

    from pennyweight import formats
    from pennyweight.console import Live
    from pennyweight.inputs import is_described, read_target
    from pennyweight.paths import absolute
    from pennyweight.serve import catalogue, gateway
    from pennyweight.service import SimilarPolicy

    settings = {**options.settings(setting), **options.speculation(speculative_config)}
    with Live() as live:
        parsed = read_target(
            target,
            engine=engine,
            settings=settings,
            names=served_model_name or (),
            adapter=adapter,
            progress=live.progress,
        )
    service = parsed.service
    if service is None or (service.only and service.only.engine == catalogue.REMOTE):
        raise EngineError(f"{target} is served already: give a deployment.")
    if replicas is not None:
        service = replace(service, replicas=dict.fromkeys(service.members, replicas))
    if cache is not None:
        place = cache if "://" in cache else str(absolute(cache))
        size = int(options.size(cache_size, "--cache-size") or 0)
        service = replace(service, cache=replace(service.cache, place=place, ttl_seconds=cache_ttl, max_bytes=size))
    if mix_shadow and not service.mixtures:
        raise UsageError(f"--mix-shadow does nothing here: {target} serves no mixture. Leave it out.")
    similar_only = {
        "--cache-similar-shadow": cache_similar_shadow,
        "--cache-similar-explored": cache_similar_explored != EXPLORED,
        "--cache-similar-never": bool(cache_similar_never),
        "--cache-similar-ttl": bool(cache_similar_ttl),
        "--cache-similar-verify": cache_similar_verify,
        "--cache-similar-embedding": cache_similar_embedding is not None,
        "--cache-similar-rebuild": cache_similar_rebuild,
    }
    alone = next((name for name, given in similar_only.items() if given), None)
    if cache_similar is None and alone and not service.cache.similar.limit:
        raise UsageError(f"{alone} does nothing without --cache-similar: give the share that may be wrong, such as 1%.")
    if cache_similar is not None:
        similar = SimilarPolicy(
            options.share(cache_similar, "--cache-similar") or 0.0,
            shadow=cache_similar_shadow,
            explored=options.share(cache_similar_explored, "--cache-similar-explored") or 0.0,
            never=tuple(cache_similar_never or ()),
            lifetimes=dict(map(lifetime, cache_similar_ttl or ())),
            verify=cache_similar_verify,
            embedding="" if cache_similar_embedding is None else str(cache_similar_embedding.absolute()),
            compared=service.cache.similar.compared,
        )
        service = replace(service, cache=replace(service.cache, similar=similar))
    gateway_settings = gateway.GatewaySettings(
        host=host,
        port=port,
        max_queue=max_queue,
        slo_ttft_ms=longest_wait(slo),
        keys=keys,
        stall_seconds=stall_timeout,
        start_seconds=start_timeout,
        drain_seconds=drain_timeout,
        state=state,
        certificate=tls_certificate,
        private_key=tls_key,
        log_requests=log_requests,
        refusals_per_second=refusals_per_second,
        allowed_origins=tuple(allowed_origin or ()),
        mix_shadow=mix_shadow,
        similar_rebuild=cache_similar_rebuild,
    )
    logging.basicConfig(level=logging.INFO if log_requests else logging.WARNING, format="%(asctime)s %(message)s")
    names = ", ".join(repr(name) for name in service.names)
    label = service.only.short_label if service.only else service.label

    described = is_described(target)

    def ready(base_url: str) -> None:
        if not described:
            typer.echo("The model is served unmodified: `pw optimize` finds out what is cheaper.", err=True)
        for deployment in service.members.values():
            for said in catalogue.notes(deployment):
                typer.echo(said, err=True)
        typer.echo(f"{label} at {base_url}/v1, model {names}; status page {base_url}/. Ctrl-C stops it.")

    evidence = formats.evidence_beside(absolute(target)) if described else None
    with ExitStack() as stack:
        place_of_logs = log or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pennyweight-")))
        gateway.run(service, gateway_settings, place_of_logs, evidence, ready)
    typer.echo("Stopped.")


def lifetime(text: str) -> tuple[str, float]:
    """`price:3600` -> ("price", 3600.0)."""
    phrase, _, seconds = text.rpartition(":")
    try:
        return phrase.strip().lower(), float(seconds)
    except ValueError:
        raise UsageError(f"--cache-similar-ttl {text!r} has no seconds: write it as price:3600.") from None


def longest_wait(slo: str | None) -> float:
    """Milliseconds; 0 where none was given."""
    found = options.pairs(slo, "--slo")
    if found.keys() - {"ttft"}:
        raise UsageError("--slo of a gateway takes only ttft:MS: it limits the time to first token, nothing else.")
    return found.get("ttft", 0.0)
