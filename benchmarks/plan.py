"""How far the planner's predictions are from measured runs (cluster/silicon.csv, which PENNYWEIGHT_DATA has).

    python -m benchmarks.plan [--only known configurations models machines] [--seed 0]
    python -m benchmarks.plan --fit FILE       fits on all rows, and writes pennyweight/plan/fitted.npz
    python -m benchmarks.plan --rival PYTHON   AIConfigurator on 300 of the rows, by the Python that it is installed in

known            a fifth of all loads is held out: other rows of the same placement may be known
configurations   a fifth of all placements (model, machine, engine, version, precision, spread) is
models           each model is left out as a whole; then with two measured runs of each placement (its least and its
                 most concurrent one), judged on the others
machines         each machine type is left out, likewise
regret           of all measured runs of a model and a pair of lengths within a TPOT, the one with the most output
                 tokens a second and device is the best; the choice is that by predictions of runs that are held out

Coefficients, kernels and interval widths come from the rows that are left; kernels' sizes were chosen once on all rows
(--fit prints the likelihood that they have).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.silicon import runs
from pennyweight.plan.prediction import Known, Prediction, Predictor, Seconds, fitted, packed, row_of
from pennyweight.plan.residual import Kernel

LENGTHS = (5.0, 2.9, 6.5, 2.3, 6.0, 6.5)
TOKEN = Kernel((0.14, 0.08, 0.13, 0.25, 0.13, 0.08, 0.07), (0.03, 0.03, 0.04, 0.03, 0.13, 0.5, 0.09), LENGTHS, 0.083)
FIRST = Kernel(
    (0.18, 0.22, 0.17, 0.25, 0.27, 0.25, 0.18),
    (0.1, 0.1, 0.1, 0.07, 0.2, 0.45, 0.09),
    (1.4, 1.7, 3.5, 2.2, 5.3, 2.7),
    0.18,
)
FOLDS, SUPPORT = 5, 400
RIVAL_ROWS = 300
FEWEST = 4  # runs of a placement, of which two are given
PARTS = ("known", "configurations", "models", "machines")
REGRET, TPOTS, SEVERAL = "regret", (0.02, 0.05, 0.1), 5  # seconds; runs to choose among
Errors = list[tuple[float, bool]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*PARTS, REGRET), default=(*PARTS, REGRET))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--support", type=int, default=SUPPORT)
    parser.add_argument("--fit", type=Path)
    parser.add_argument("--rival", type=Path)
    told = parser.parse_args()
    data = os.environ.get("PENNYWEIGHT_DATA")
    if not data:
        parser.error("set PENNYWEIGHT_DATA to the folder that has cluster/silicon.csv")
    rows = runs(Path(data) / "cluster" / "silicon.csv")
    known = [one for one, _ in rows]
    print(f"{len(known)} measured runs")
    if told.fit:
        about = f"{len(known)} closed-loop runs of ai-dynamo/aiconfigurator tools/accuracy_tracking (Apache-2.0)"
        told.fit.write_bytes(packed(fitted(known, (TOKEN, FIRST), support=told.support, about=about)))
        return
    if told.only != [REGRET]:
        print("\n| what | rows | TPOT median | p90 | in the interval | TTFT median | p90 | in the interval |")
        print("|---|---|---|---|---|---|---|---|")
    estimates = estimated(told.rival, rows, told.seed) if told.rival else {}
    if estimates:
        show("AIConfigurator, what it estimates of 300", rivals(estimates))
    for part in filter(PARTS.__contains__, told.only):
        measure(part, known, told.seed, told.support, judged={id(one) for one, _ in estimates.values()})

    if REGRET in told.only:
        print(
            "\n| held out | TPOT within | choices | regret median | mean | choices that miss the TPOT |\n"
            + "|---" * 6
            + "|"
        )
        for part in ("known", "configurations"):
            regret(part, known, told.seed, told.support)


def regret(part: str, known: Sequence[Known], seed: int, support: int) -> None:
    predicted = dict[int, Prediction]()
    for left, out in splits(part, known, seed):
        predictor = fitted(left, (TOKEN, FIRST), support=support)
        found = predictor.predict([one.case for one in out])
        predicted.update({id(one): each for one, each in zip(out, found, strict=True)})
    by_work = defaultdict[Hashable, list[Known]](list)
    for one in known:
        by_work[one.case.shape, one.case.load.prompt_tokens, one.case.load.output_tokens].append(one)
    for limit in TPOTS:
        lost, missed = list[float](), 0
        for group in by_work.values():
            holding = [one for one in group if one.token_seconds <= limit]
            able = [one for one in group if predicted[id(one)].token.value <= limit]
            if len(holding) < SEVERAL or not able:
                continue
            choice = max(able, key=lambda one: served(one, predicted[id(one)]))
            best = max(served(one) for one in holding)
            missed += choice.token_seconds > limit
            if choice.token_seconds <= limit:
                lost.append(1 - served(choice) / best)
        count = len(lost) + missed
        cells = [part, f"{1000 * limit:.0f} ms", str(count), f"{np.median(lost):.1%}", f"{np.mean(lost):.1%}"]
        print("| " + " | ".join([*cells, str(missed)]) + " |", flush=True)


def served(one: Known, predicted: Prediction | None = None) -> float:
    """Output tokens a second and device, measured or predicted."""
    load = one.case.load
    token, first = one.token_seconds, one.first_seconds
    if predicted is not None:
        token, first = predicted.token.value, predicted.first.value
    seconds = first + token * (load.output_tokens - 1)
    return load.concurrency * load.output_tokens / seconds / one.case.placement.devices


def measure(part: str, known: Sequence[Known], seed: int, support: int, *, judged: Collection[int]) -> None:
    """On the `judged` rows alone, if there are any."""
    alone, helped = (Errors(), Errors()), (Errors(), Errors())
    for left, out in splits(part, known, seed):
        out = [one for one in out if not judged or id(one) in judged]
        predictor = fitted(left, (TOKEN, FIRST), support=support)
        add(alone, predictor, out, [])
        if part in ("models", "machines"):
            for given, others in pairs(out):
                add(helped, predictor, others, given)
    show(part, alone)
    if helped[0]:
        show(f"{part}, two runs of the placement known", helped)


def estimated(
    python: Path, rows: Sequence[tuple[Known, Mapping[str, str]]], seed: int
) -> dict[int, tuple[Known, tuple[float, float]]]:
    """Seconds of a token and of the first one, of the rows that it has an estimate for."""
    places = np.random.default_rng(seed).permutation(len(rows))[:RIVAL_ROWS].tolist()
    lines = "\n".join(json.dumps(asked(*rows[place])) for place in places)
    script = Path(__file__).with_name("aiconfigurator_rows.py")
    ran = subprocess.run([python, script], input=lines, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    print(f"AIConfigurator estimates {sum(one is not None for one in answers)} of {len(places)} rows")
    return {
        place: (rows[place][0], (answer[0] / 1000, answer[1] / 1000))
        for place, answer in zip(places, answers, strict=True)
        if answer is not None
    }


def asked(one: Known, row: Mapping[str, str]) -> dict[str, object]:
    placement, load = one.case.placement, one.case.load
    experts: dict[str, object] = {}
    if one.case.shape.experts:
        experts = {"moe_tp_size": placement.devices // placement.expert, "moe_ep_size": placement.expert}
    return {
        "model_path": row["model_path"],
        "system_name": row["system"],
        "backend_name": row["backend"],
        "isl": int(load.prompt_tokens),
        "osl": int(load.output_tokens),
        "batch_size": max(1, round(load.concurrency / placement.data)),
        "tp_size": placement.tensor,
        "attention_dp_size": placement.data,
        "gemm_quant_mode": row["gemm_quant_mode"] or None,
        "moe_quant_mode": row["moe_quant_mode"] or None if one.case.shape.experts else None,
        **experts,
    }


def rivals(estimates: Mapping[int, tuple[Known, tuple[float, float]]]) -> tuple[Errors, Errors]:
    """It gives no intervals."""
    found = (Errors(), Errors())
    for one, (token, first) in estimates.values():
        found[0].append((abs(token / one.token_seconds - 1), False))
        found[1].append((abs(first / one.first_seconds - 1), False))
    return found


def add(errors: tuple[Errors, Errors], predictor: Predictor, out: Sequence[Known], given: Sequence[Known]) -> None:
    for one, found in zip(out, predictor.predict([one.case for one in out], given), strict=True):
        errors[0].append(error_of(found.token, one.token_seconds))
        errors[1].append(error_of(found.first, one.first_seconds))


def error_of(seconds: Seconds, true: float) -> tuple[float, bool]:
    return abs(seconds.value / true - 1), seconds.low <= true <= seconds.high


def splits(part: str, known: Sequence[Known], seed: int) -> Iterator[tuple[list[Known], list[Known]]]:
    """What is fitted on, and what is judged."""
    named: dict[str, Callable[[Known], Hashable]] = {
        "known": lambda one: (place(one), one.case.load),
        "configurations": place,
        "models": lambda one: one.case.shape,
        "machines": lambda one: one.case.placement.machine.name,
    }
    group = [named[part](one) for one in known]
    groups = list(dict.fromkeys(group))
    if part in ("known", "configurations"):
        draw = np.random.default_rng(seed).integers(FOLDS, size=len(groups))
        fold = dict(zip(groups, draw.tolist(), strict=True))
    else:
        fold = {name: number for number, name in enumerate(groups)}
    for number in sorted(set(fold.values())):
        out = [fold[name] == number for name in group]
        yield (
            [one for one, held in zip(known, out, strict=True) if not held],
            [one for one, held in zip(known, out, strict=True) if held],
        )


def pairs(out: Sequence[Known]) -> Iterator[tuple[list[Known], list[Known]]]:
    by_place = defaultdict[Hashable, list[Known]](list)
    for one in out:
        by_place[place(one)].append(one)
    for group in by_place.values():
        if len(group) >= FEWEST:
            load = [(one.case.load.concurrency, one.case.load.prompt_tokens) for one in group]
            order = sorted(range(len(group)), key=lambda number: load[number])
            ordered = [group[number] for number in order]
            yield [ordered[0], ordered[-1]], ordered[1:-1]


def place(one: Known) -> Hashable:
    row = row_of(one.case)
    return row.engine, row.model, row.machine, row.precision, row.version, row.spread


def show(what: str, errors: tuple[Errors, Errors]) -> None:
    cells = [what, str(len(errors[0]))]
    for each in errors:
        off = np.array([error for error, _ in each])
        cells += [f"{np.median(off):.1%}", f"{np.quantile(off, 0.9):.0%}", f"{np.mean([ok for _, ok in each]):.0%}"]
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
