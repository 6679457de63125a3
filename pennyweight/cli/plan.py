"""`pw plan MODEL -w trace --slo ttft:500,tpot:50`: the cheapest machines that would hold the limits, predicted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pennyweight.cli import options
from pennyweight.errors import UsageError

if TYPE_CHECKING:
    from pennyweight.plan.placement import Placement
    from pennyweight.plan.prediction import Known
    from pennyweight.provision import Provision, Simulated
    from pennyweight.report.planned import PlannedRow
    from pennyweight.shape import ModelShape
    from pennyweight.simulate import RequestTable

LIMITS = ("ttft", "tpot")
SIMULATING = "Planning and simulating: seconds, and a minute the first time on a machine, for compiling."
UNLIMITED = 1e9  # milliseconds
PLAN_FILE, PAGE = "plan.json", "plan.html"
SPREADS = ("tensor", "pipeline", "data", "expert")
RUN_FIELDS = {"machine", "engine", "precision", *(f"{name}_parallel_size" for name in SPREADS)}
RUN_FIELDS |= {"prompt_tokens", "output_tokens", "concurrency", "ttft_ms", "tpot_ms"}
GENERATING = ("CausalLM", "ConditionalGeneration", "LMHead")  # in the names of architectures
NATIVE = {"fp8": "fp8", "mxfp4": "fp4", "nvfp4": "fp4"}  # as config.json's quantization_config names them


def plan(
    model: Annotated[Path, typer.Argument(help="A model's directory, or its config.json.")],
    workload: options.WorkloadName = "chat",
    trace_format: options.TraceFormat = None,
    slo: Annotated[str, typer.Option(help="Limits in milliseconds.")] = "ttft:1000,tpot:100",
    attainment: Annotated[str, typer.Option(help="Share of requests that must keep them.")] = "99%",
    request_rate: Annotated[
        float | None, typer.Option(help="Requests a second. [default: as the trace recorded]")
    ] = None,
    catalogue: Annotated[Path | None, typer.Option(help="Own machine types or prices, a JSON file.")] = None,
    machines: Annotated[str | None, typer.Option(help="Only these machine types, such as h100_sxm,l40s.")] = None,
    engines: Annotated[str, typer.Option(help="vllm, sglang, tensorrt_llm; several with commas.")] = "vllm",
    precisions: Annotated[
        str | None, typer.Option(help="bf16, fp8, fp4, int4 …; others than the model's own are to be proven.")
    ] = None,
    max_price: Annotated[str | None, typer.Option(help="Dollars that may be spent, such as 40/h.")] = None,
    calibrate: Annotated[Path | None, typer.Option(help="Measured runs of a placement, JSON lines.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A model's directory, to count the tokens of texts. [default: MODEL]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Directory for plan.json and a page of it.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Plan machines and replicas that hold limits. Nothing is started."""
    from pennyweight.inputs import counter_of
    from pennyweight.plan.catalogue import catalogue as read_catalogue
    from pennyweight.plan.options import Limits
    from pennyweight.plan.planning import Question
    from pennyweight.plan.prediction import shipped_predictor
    from pennyweight.provision import buckets_of, provision, rate_of
    from pennyweight.shape import ModelShape
    from pennyweight.simulate import RequestTable
    from pennyweight.traces import load

    most = _price(max_price)
    limits = _limits(slo, options.share(attainment, "--attainment") or 0.0)
    config = _config(model)
    shape, native = ModelShape.of(config), _native(config)
    known = read_catalogue(catalogue)
    chosen = _machines(machines, known)
    directory = model if model.is_dir() else model.parent
    count = counter_of(tokenizer or directory)
    requests = load(workload, trace_format, count_tokens=count)
    table = _fitting(RequestTable.of_workload(requests, count), int(config.get("max_position_embeddings") or 0))
    rate = rate_of(table, request_rate)
    question = Question(
        shape,
        buckets_of(table, rate),
        Limits(limits["ttft"], limits["tpot"], limits["attainment"]),
        chosen,
        engines=tuple(filter(None, engines.split(","))),
        precisions=tuple(filter(None, (precisions or native).split(","))),
        native=native,
        most_usd=most,
        known=_known(calibrate, shape, known) if calibrate is not None else (),
    )
    typer.echo(SIMULATING, err=True)
    found = provision(question, shipped_predictor(), table, rate=rate)
    lines = sentences(found, rate)
    for line in lines:
        typer.echo(line)
    told = as_plain(found, rate)
    if output is not None:
        _write(output, found, told, lines, title=f"{directory.resolve().name}: {requests.name}")
        service = _write_service(output, found, model)
        typer.echo(f"Written: {', '.join(str(output / name) for name in (PLAN_FILE, PAGE, *service))}.")
    if as_json:
        print(json.dumps(told))


def sentences(found: Provision, rate: float) -> list[str]:
    plan, limits = found.plan, found.plan.question.limits
    kept = [f"{limits.ttft_ms:g} ms to the first token"] if limits.ttft_ms < UNLIMITED else []
    kept += [f"{limits.tpot_ms:g} ms a token"] if limits.tpot_ms < UNLIMITED else []
    lines = [
        f"Predicted: {found.hourly_usd:.2f} dollars an hour for {rate:.3g} requests a second, of which "
        f"{found.attainment:.2%} keep {' and '.join(kept)}."
    ]
    for one in found.chosen:
        capacity = one.option.capacities[0]
        token, head = capacity.prediction.token, capacity.prediction.first
        lines.append(
            f"  {one.replicas} x {one.option.placement.describe()}: up to {capacity.load.concurrency:.0f} at a time, "
            f"TPOT {1000 * token.value:.1f} ms ({1000 * token.low:.1f} to {1000 * token.high:.1f}), "
            f"TTFT {1000 * head.value:.0f} ms ({1000 * head.low:.0f} to {1000 * head.high:.0f})"
        )
    lines += [f"  why {reason}" for reason in plan.reasons]
    for other in found.others:
        word = "or" if other.attainment >= limits.attainment else "not enough:"
        lines.append(
            f"  {word} {other.replicas} x {other.option.placement.describe()}: {other.hourly_usd:.2f} dollars an hour, "
            f"{other.attainment:.2%} within the limits"
        )
    if plan.impossible:
        lines.append(f"  not possible on {len(plan.impossible)} machine types, nearest:")
        lines += [f"    {one}" for one in plan.impossible[:3]]
    sizes = " and ".join(f"{load.concurrency:.0f}" for load in plan.to_measure)
    load = plan.to_measure[0]
    lines.append(
        f"  What would settle it: `pw bench URL --max-concurrency` at {sizes} with prompts of "
        f"{load.prompt_tokens:.0f} and answers of {load.output_tokens:.0f} tokens on {one_of(found)}, then --calibrate."
    )
    return lines + [f"  note: {note}" for note in plan.notes]


def one_of(found: Provision) -> str:
    return found.chosen[0].option.placement.describe()


def as_plain(found: Provision, rate: float) -> dict[str, Any]:
    question = found.plan.question
    return {
        "schema_version": 1,
        "predicted": True,
        "hourly_usd": found.hourly_usd,
        "attainment": found.attainment,
        "request_rate": rate,
        "limits": {
            "ttft_ms": question.limits.ttft_ms,
            "tpot_ms": question.limits.tpot_ms,
            "attainment": question.limits.attainment,
        },
        "chosen": [_plain(one) for one in found.chosen],
        "alternatives": [_plain(one) for one in found.others],
        "reasons": list(found.plan.reasons),
        "impossible": list(found.plan.impossible),
        "to_measure": [vars(load) for load in found.plan.to_measure],
        "notes": list(found.plan.notes),
        "gap": found.plan.allocation.gap,
    }


def _plain(one: Simulated) -> dict[str, Any]:
    placement = one.option.placement
    return {
        "machine": placement.machine.name,
        "engine": placement.engine,
        "precision": placement.precision,
        "tensor_parallel_size": placement.tensor,
        "pipeline_parallel_size": placement.pipeline,
        "data_parallel_size": placement.data,
        "expert_parallel_size": placement.expert,
        "replicas": one.replicas,
        "hourly_usd": one.hourly_usd,
        "attainment": one.attainment,
        "ttft_p99_ms": one.ttft_p99_ms,
        "tpot_p99_ms": one.tpot_p99_ms,
        "capacities": [
            {
                **vars(each.load),
                "tpot_ms": [1000 * v for v in vars(each.prediction.token).values()],
                "ttft_ms": [1000 * v for v in vars(each.prediction.first).values()],
            }
            for each in one.option.capacities
        ],
        "step_price": vars(one.price),
        "replica_limits": vars(one.limits),
    }


def _write(output: Path, found: Provision, told: dict[str, Any], lines: list[str], *, title: str) -> None:
    from pennyweight.report.planned import PlannedRow, write_plan

    output.mkdir(parents=True, exist_ok=True)
    (output / PLAN_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    several = len(found.chosen) > 1
    rows = [_row(one, chosen=not several) for one in found.chosen]
    if several:
        worst = max(one.ttft_p99_ms for one in found.chosen), max(one.tpot_p99_ms for one in found.chosen)
        count = sum(one.replicas for one in found.chosen)
        rows.insert(0, PlannedRow("the plan", count, found.hourly_usd, found.attainment, *worst, chosen=True))
    rows += [_row(one, chosen=False) for one in found.others]
    write_plan(output / PAGE, title, rows, attainment=found.plan.question.limits.attainment, sentences=lines)


def _write_service(output: Path, found: Provision, model: Path) -> list[str]:
    """`service.json` for `pw serve` on the planned machine, where one placement serves the model as it is, on vLLM."""
    from pennyweight import formats
    from pennyweight.deployment import Deployment
    from pennyweight.inputs import open_model
    from pennyweight.service import Service

    (first, *more), question = found.chosen, found.plan.question
    placement = first.option.placement
    served = placement.engine == "vllm" and placement.precision == question.native == "bf16" and not more
    if not served or not model.is_dir() or not list(model.glob("*.safetensors")):
        return []
    settings: dict[str, Any] = {"max_num_seqs": first.limits.max_num_seqs}
    for name in ("tensor", "pipeline", "data"):
        if getattr(placement, name) > 1:
            settings[f"{name}_parallel_size"] = getattr(placement, name)
    deployment = Deployment.of(open_model(str(model)), "vllm", **settings)
    service = Service.of(deployment, replicas=first.replicas)
    formats.write("service", output / formats.SERVICE_FILE, service)
    return [formats.SERVICE_FILE]


def _row(one: Simulated, *, chosen: bool) -> PlannedRow:
    from pennyweight.report.planned import PlannedRow

    name, times = one.option.placement.describe(), (one.ttft_p99_ms, one.tpot_p99_ms)
    return PlannedRow(name, one.replicas, one.hourly_usd, one.attainment, *times, chosen=chosen)


# -- what was given --


def _config(model: Path) -> dict[str, Any]:
    file = model / "config.json" if model.is_dir() else model
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error}): name a model's directory or its config.json.") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file} is no config of a model: name a model's directory or its config.json.")
    names = found.get("architectures") or []
    if names and not any(part in str(name) for name in names for part in GENERATING):
        raise UsageError(f"{file} is of {names[0]}, which does not generate text: plan for a decoder.")
    return {**found, **found["text_config"]} if isinstance(found.get("text_config"), dict) else found


def _fitting(table: RequestTable, context: int) -> RequestTable:
    """Without the requests that the model's context has no room for, which no engine would take."""
    fits = table.prompt_tokens + table.output_tokens <= context
    if not context or fits.all():
        return table
    if not fits.any():
        raise UsageError(
            f"No request of {table.name} fits the model's context of {context} tokens: give another workload or model."
        )
    typer.echo(
        f"{int((~fits).sum())} of {len(table)} requests exceed the model's context of {context} tokens: left out."
    )
    return table.chosen(fits.nonzero()[0])


def _native(config: dict[str, Any]) -> str:
    told = config.get("quantization_config") or {}
    method, bits = str(told.get("quant_method") or "").lower(), told.get("bits")
    if bits == 4:
        return "int4"
    if told and method not in NATIVE:
        raise UsageError(
            f"quantization_config names {method or 'no method'!r}, whose precision is not known: give --precisions "
            "and take quantization_config out of the config."
        )
    return NATIVE.get(method, "bf16")


def _limits(slo: str, attainment: float) -> dict[str, float]:
    found = options.pairs(slo, "--slo")
    unknown = sorted(set(found) - set(LIMITS))
    if unknown:
        raise UsageError(f"--slo does not know {unknown[0]!r} here: use ttft and tpot.")
    for name, value in found.items():
        if value <= 0:
            raise UsageError(f"--slo {name}:{value:g} cannot be kept: give milliseconds above 0.")
    return {"ttft": UNLIMITED, "tpot": UNLIMITED, **found, "attainment": attainment}


def _price(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"\$?(\d+(?:\.\d+)?)(?:/h)?", text.strip())
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"--max-price {text!r} is no price: give dollars an hour, such as 40/h.")
    return float(found[1])


def _machines(text: str | None, known: Any) -> tuple[Any, ...]:
    from pennyweight.plan.catalogue import find

    if text is None:
        return tuple(known.values())
    return tuple(find(name, known.values()) for name in filter(None, text.split(",")))


def _known(file: Path, shape: ModelShape, machines: Any) -> tuple[Known, ...]:
    """Measured runs, one JSON object a line; docs/plan.md names the fields."""
    from pennyweight.plan.prediction import Case, Known
    from pennyweight.plan.prices import Load

    found = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--calibrate {file} cannot be read ({error}): give a file of JSON lines.") from None
    for number, line in enumerate(filter(str.strip, lines), 1):
        try:
            row = json.loads(line)
            if odd := sorted(set(row) - RUN_FIELDS):
                raise ValueError(f"{odd[0]} is no field of a run")
            load = Load(float(row["prompt_tokens"]), float(row["output_tokens"]), float(row["concurrency"]))
            token, first = float(row["tpot_ms"]) / 1000, float(row["ttft_ms"]) / 1000
            placement = _placement(row, machines)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{file}, line {number}: {error}: a run needs machine, engine, precision, prompt_tokens, "
                "output_tokens, concurrency, ttft_ms and tpot_ms."
            ) from None
        if min(token, first) <= 0:
            raise UsageError(f"{file}, line {number}: times must be above 0.")
        found.append(Known(Case(shape, placement, load), token, first))
    if not found:
        raise UsageError(f"--calibrate {file} has no runs: give two of the placement that was planned.")
    return tuple(found)


def _placement(row: Any, machines: Any) -> Placement:
    from pennyweight.plan.catalogue import find
    from pennyweight.plan.placement import PRECISIONS, Placement

    if row["precision"] not in PRECISIONS:
        raise ValueError(f"the precision {row['precision']!r} is unknown")
    sizes = {name: int(row.get(f"{name}_parallel_size", 1)) for name in SPREADS}
    machine = find(str(row["machine"]), machines.values())
    tensor, pipeline, data, expert = sizes.values()
    return Placement(machine, str(row["engine"]), row["precision"], tensor, pipeline, data, expert)
