"""`pw simulate plan.json -w trace --replicas 10000`: what replicas would do to a trace, predicted."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pennyweight.cli import options
from pennyweight.errors import UsageError

if TYPE_CHECKING:
    from pennyweight.measurement import Measurement
    from pennyweight.simulate import SimulatedCluster
    from pennyweight.step_price import ReplicaLimits, StepPrice

Value = TypeVar("Value", "StepPrice", "ReplicaLimits")
SHOWN = (
    "request_throughput",
    "output_throughput",
    "ttft_p50_ms",
    "ttft_p99_ms",
    "tpot_p50_ms",
    "tpot_p99_ms",
    "e2e_p50_ms",
    "e2e_p99_ms",
    "cached_prompt_share",
    "preemptions",
    "goodput_share",
    "replica_seconds",
)


def simulate(
    plan: Annotated[Path, typer.Argument(help="plan.json of `pw plan -o`, its directory, or a file of step prices.")],
    workload: options.WorkloadName = "chat",
    trace_format: options.TraceFormat = None,
    placement: Annotated[
        int | None, typer.Option(help="Which placement of the plan, from 1 on, where it has several.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="Replicas. [default: as planned]")] = None,
    request_rate: Annotated[
        float | None, typer.Option(help="Requests a second. [default: as the trace recorded]")
    ] = None,
    num_prompts: Annotated[int | None, typer.Option(help="Only the first so many requests.")] = None,
    max_concurrency: Annotated[int | None, typer.Option(help="A closed loop of so many clients instead.")] = None,
    router: Annotated[
        str, typer.Option(help="gateway, round-robin, power-of-two, least-outstanding, prefix or session affinity.")
    ] = "gateway",
    goodput: Annotated[str | None, typer.Option(help="Limits in milliseconds, such as ttft:500,tpot:50.")] = None,
    fail: Annotated[str | None, typer.Option(help="Kill a replica: number@seconds; several with commas.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A model's directory, to count the tokens of texts.")] = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Simulate a trace on planned replicas. Deterministic by seed; nothing is started."""
    from pennyweight import codec
    from pennyweight.inputs import counter_of
    from pennyweight.provision import rate_of
    from pennyweight.simulate import RequestTable
    from pennyweight.simulate import simulate as run
    from pennyweight.simulate.arrivals import at_rate
    from pennyweight.traces import load

    cluster = _cluster(plan, placement, replicas, fail)
    found = load(workload, trace_format, count_tokens=counter_of(tokenizer))
    table = RequestTable.of_workload(found, counter_of(tokenizer))
    if num_prompts is not None:
        if num_prompts < 1:
            raise UsageError(f"--num-prompts {num_prompts} is not possible: give 1 or more.")
        table = table.chosen(list(range(min(num_prompts, len(table)))))
    if max_concurrency is not None:
        table = table.closed_loop(max_concurrency)
    elif request_rate is not None:
        table = at_rate(table, rate_of(table, request_rate), seed)
    typer.echo("Simulating: seconds, and a minute the first time on a machine, for compiling.", err=True)
    result = run(cluster, table, router=_router(router), seed=seed)
    measured = result.measurement(str(plan), goodput=options.pairs(goodput, "--goodput") or None)
    for line in _lines(cluster, measured):
        typer.echo(line)
    if as_json:
        print(json.dumps(codec.plain(measured)))


def _lines(cluster: SimulatedCluster, measured: Measurement) -> list[str]:
    lines = [f"Predicted, {cluster.pool.replicas} replicas at the pessimistic end of their step prices:"]
    for name in SHOWN:
        if name in measured:
            found = measured.quantities[name]
            lines.append(f"  {name:24} {found.value:14,.2f} {'' if found.unit == '1' else found.unit}".rstrip())
    return lines


def _cluster(place: Path, placement: int | None, replicas: int | None, fail: str | None) -> SimulatedCluster:
    from pennyweight.simulate import Failure, Pool, SimulatedCluster
    from pennyweight.step_price import ReplicaLimits, StepPrice

    file = place / "plan.json" if place.is_dir() else place
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error}): give the plan.json that `pw plan -o` writes.") from None
    chosen = told.get("chosen", [told]) if isinstance(told, dict) else []
    if not chosen or not all(isinstance(one, dict) and "step_price" in one for one in chosen):
        raise UsageError(f"{file} has no step_price: give the plan.json that `pw plan -o` writes.")
    if placement is None and len(chosen) > 1:
        raise UsageError(f"{file} has {len(chosen)} placements: say which is to serve everything (--placement 1).")
    if placement is not None and not 1 <= placement <= len(chosen):
        raise UsageError(f"--placement {placement} is not there: {file} has {len(chosen)}.")
    first = chosen[(placement or 1) - 1]
    price = _value(StepPrice, first["step_price"], file)
    limits = _value(ReplicaLimits, first.get("replica_limits"), file)
    count = int(first.get("replicas", 1)) if replicas is None else replicas
    failures = tuple(Failure(number, seconds) for number, seconds in _failures(fail))
    return SimulatedCluster(Pool(count, price, limits), failures=failures)


def _value(kind: type[Value], row: Any, file: Path) -> Value:
    names = {field.name for field in fields(kind)}
    try:
        return kind(**{name: value for name, value in row.items() if name in names})
    except (AttributeError, TypeError) as error:
        raise UsageError(f"{file}: {kind.__name__}: {error}: take the file as `pw plan -o` wrote it.") from None


def _failures(text: str | None) -> list[tuple[int, float]]:
    found = []
    for part in filter(None, (text or "").split(",")):
        number, _, seconds = part.partition("@")
        try:
            found.append((int(number), float(seconds)))
        except ValueError:
            raise UsageError(f"--fail {part!r} is not number@seconds: write it as 0@30.") from None
    return found


def _router(name: str) -> Any:
    from pennyweight.simulate import Router

    try:
        return Router(name.strip().lower().replace("_", "-"))
    except ValueError:
        raise UsageError(f"The router {name!r} is unknown: use {', '.join(Router)}.") from None
